//! Conversations, turn by turn.
//!
//! What earlier turns have left is what each layer holds of their text, questions and answers: it stays as it was
//! computed, whatever is asked next. Pictures are nobody's: what a vision token is depends on what is before it only, so a
//! turn computes all of them anew and judges them by its own last row. That an earlier turn dropped some of them, or went on
//! with what others became without these, is seen in its text and nowhere else.

use super::*;

/// What was said so far.
#[derive(Clone)]
pub struct Conversation<'a> {
    reference: &'a Reference,
    rule: Rule,
    n_rows: usize,
    /// `[n_layer]`: the cells of all text, by row.
    settled: Vec<BTreeMap<usize, Cell>>,
    /// The vision tokens that entered the model, each when its picture came.
    entered: Vec<usize>,
    /// The least of all turns: a turn depends on what was decided before it.
    margin: f64,
}

impl<'a> Conversation<'a> {
    pub fn new(reference: &'a Reference, rule: Rule) -> Self {
        Conversation {
            reference,
            rule,
            n_rows: 0,
            settled: vec![BTreeMap::new(); reference.n_layer],
            entered: Vec::new(),
            margin: f64::INFINITY,
        }
    }

    /// The next turn. `prompt` are all rows up to its last one, beginning with those of the earlier turns and their answers.
    pub fn ask(&mut self, prompt: &Prompt) -> Run<'a> {
        let reference = self.reference;
        let kinds = kinds(&prompt.layout);
        let mut run = self.begin(prompt);
        let mut hidden: Vec<Vec<f64>> = prompt.inputs.iter().map(|input| reference.embed(input)).collect();
        let sees_until = reference.sees_until(&prompt.layout);
        let mut counted = 0;
        for il in 0..reference.n_layer {
            let scene = Scene {
                kinds: &kinds,
                pos: &prompt.pos,
                sees_until: &sees_until,
                present: &run.present(il, &kinds, &self.rule),
                operator: operator(&self.rule, il),
                settled: &self.settled[il],
            };
            let layer = reference.run_layer(il, &mut hidden, &scene);
            run.decide(il, &layer, &self.rule, &mut counted);
            run.layers.push(layer);
        }
        run.evict_shallow(&kinds, &self.rule);
        run.logits = reference.logits(hidden.last().expect("a prompt has rows"));
        self.settle(&run, &kinds);
        run
    }

    /// The answer to the last turn, whose tokens see what the turn's last row saw of the pictures, layer by layer.
    pub fn answer(&mut self, run: &Run, tokens: &[usize]) {
        let mut caches = Caches::of(run);
        for &token in tokens {
            caches.push(token);
            for (settled, cells) in self.settled.iter_mut().zip(&caches.cells) {
                settled.insert(self.n_rows, cells.last().expect("a row was pushed").clone());
            }
            self.n_rows += 1;
        }
    }

    /// A turn with the tokens that enter the model: what entered earlier, and what is let in of its own pictures.
    fn begin(&self, prompt: &Prompt) -> Run<'a> {
        let vision_rows: Vec<usize> = prompt.layout.vision.iter().flat_map(Clone::clone).collect();
        let tokens = 0..vision_rows.len();
        let mut run = Run {
            reference: self.reference,
            layers: Vec::new(),
            entered: Vec::new(),
            drops: Vec::new(),
            fusion_layer: None,
            kept: None,
            exit_layer: None,
            logits: Vec::new(),
            margin: self.margin,
            vision: tokens.clone().collect(),
            pos: prompt.pos.clone(),
            next_pos: prompt.next_pos,
            n_vision: vision_rows.len(),
        };
        let new: Vec<usize> = tokens
            .filter(|&token| vision_rows[token] >= self.n_rows)
            .collect();
        let entering = match &self.rule {
            Rule::Policy(PolicyConfig::DivPrune(config)) => {
                let row = |&token: &usize| self.reference.embed(&prompt.inputs[vision_rows[token]]);
                let embd: Vec<Vec<f64>> = new.iter().map(row).collect();
                run.most_diverse(&new, &embd, config)
            }
            _ => new,
        };
        run.entered = [self.entered.as_slice(), &entering].concat();
        run.keep(None, run.entered.clone());
        run
    }

    fn settle(&mut self, run: &Run, kinds: &[Kind]) {
        for (settled, layer) in self.settled.iter_mut().zip(&run.layers) {
            for (row, cell) in layer.cells.iter().enumerate() {
                if let (Some(cell), Kind::Before | Kind::After) = (cell, kinds[row]) {
                    settled.insert(row, cell.clone());
                }
            }
        }
        self.n_rows = kinds.len();
        self.entered.clone_from(&run.entered);
        self.margin = run.margin;
    }
}

impl Reference {
    /// The last row that each row sees.
    fn sees_until(&self, layout: &PromptLayout) -> Vec<usize> {
        let until = |row: usize| {
            let image = layout.vision.iter().find(|image| image.contains(&row));
            image
                .filter(|_| self.both_ways)
                .map_or(row, |image| image.end - 1)
        };
        (0..layout.n_rows).map(until).collect()
    }
}

/// What each layer holds while an answer is generated: the rows of a prefill that are left there, and the answer's.
pub struct Caches<'a> {
    reference: &'a Reference,
    /// `[n_layer]`
    cells: Vec<Vec<Cell>>,
    /// `[n_layer]`, parallel to the cells.
    pos: Vec<Vec<Position>>,
    next_pos: usize,
}

impl<'a> Caches<'a> {
    fn of(run: &Run<'a>) -> Self {
        let of_layer = |layer: &LayerRun| -> (Vec<Position>, Vec<Cell>) {
            let rows = run.pos.iter().zip(&layer.cells);
            rows.filter_map(|(&pos, cell)| Some((pos, cell.clone()?))).unzip()
        };
        let (pos, cells) = run.layers.iter().map(of_layer).unzip();
        Caches {
            reference: run.reference,
            cells,
            pos,
            next_pos: run.next_pos,
        }
    }

    /// Runs the row that follows, returns its logits.
    fn push(&mut self, token: usize) -> Vec<f64> {
        let reference = self.reference;
        let mut x = reference.embed(&Input::Token(token));
        let pos = [self.next_pos; 3];
        for (il, (cells, places)) in self.cells.iter_mut().zip(&mut self.pos).enumerate() {
            let (q, cell) = reference.project(il, &x, pos);
            cells.push(cell);
            places.push(pos);
            let visible: Vec<bool> = places
                .iter()
                .map(|&key| reference.is_in_window(il, pos, key))
                .collect();
            let weights = reference.attention_weights(&q, cells, &visible);
            let o = reference.attention_output(&weights, cells);
            x = reference.finish_layer(il, &x, &o);
        }
        self.next_pos += 1;
        reference.logits(&x)
    }
}

impl Run<'_> {
    /// Generates `n` tokens, the most likely one each time, each layer attending to what its cache holds.
    pub fn decode(&self, n: usize) -> Decoded {
        let mut caches = Caches::of(self);
        let mut tokens = Vec::new();
        let mut logits = vec![self.logits.clone()];
        while tokens.len() < n {
            let token = argmax(&logits[tokens.len()]);
            tokens.push(token);
            logits.push(caches.push(token));
        }
        logits.truncate(n);
        Decoded { tokens, logits }
    }
}
