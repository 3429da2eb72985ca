//! An engine for the crate's staged prefill in double precision, which does what the real one does: rows that
//! are dropped are not computed and not stored, weights after softmax are changed by changing values, the
//! probe is in closed form.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;

use visipruner::engine::prefill::{CallAttention, LayerRanges, RangeCall, RowProbe};
use visipruner::policy::{Row, Statistic};

use super::reference::{Cell, Input, Reference};

pub struct Dropping<'a> {
    reference: &'a Reference,
    /// The rows as they left the last layer that they ran through, and the number of layers that was.
    rows: Vec<(Vec<f64>, usize)>,
    /// `[n_layer]`, by prompt row.
    pub cells: Vec<BTreeMap<usize, Cell>>,
    probe: Option<(usize, RowProbe)>,
    /// `[n_layer][n_rows]`: weights averaged over heads, summed over the queries that were asked for.
    attention: Vec<Vec<f64>>,
}

/// What one query's attention tells.
struct Read {
    contribution: RowProbe,
    /// Prompt row and weight, averaged over heads.
    attention: Vec<(usize, f64)>,
}

impl<'a> Dropping<'a> {
    pub fn new(reference: &'a Reference, prompt: &[Input]) -> Dropping<'a> {
        Dropping {
            reference,
            rows: prompt.iter().map(|input| (reference.embed(input), 0)).collect(),
            cells: vec![BTreeMap::new(); reference.n_layer],
            probe: None,
            attention: vec![vec![0.0; prompt.len()]; reference.n_layer],
        }
    }

    /// The logits of the last row, after the last layer.
    pub fn logits(&self) -> Vec<f64> {
        let (row, n_layer) = self.rows.last().expect("a prompt has rows");
        assert_eq!(*n_layer, self.reference.n_layer);
        self.reference.logits(row)
    }

    fn run_layer(&mut self, il: usize, call: &RangeCall) {
        let mut queries = Vec::new();
        for row in call.rows.iter().map(|row| row.0 as usize) {
            let (x, n_layer) = &self.rows[row];
            assert_eq!(*n_layer, il, "row {row} runs through every layer once");
            let (q, cell) = self.reference.project(il, x, [row; 3]);
            let old = self.cells[il].insert(row, cell);
            assert!(old.is_none());
            queries.push(q);
        }
        for (i, q) in queries.iter().enumerate() {
            let row = call.rows[i].0 as usize;
            let (o, read) = self.attend(il, call, i, q);
            let asked = call.probe.as_ref().filter(|probe| probe.layers.contains(&il));
            if let Some(asked) = asked.filter(|asked| asked.queries.contains(&call.rows[i])) {
                match asked.statistic {
                    Statistic::Contribution => self.probe = Some((il, read.contribution)),
                    _ => {
                        for (key, weight) in read.attention {
                            self.attention[il][key] += weight;
                        }
                    }
                }
            }
            self.rows[row] = (self.reference.finish_layer(il, &self.rows[row].0, &o), il + 1);
        }
    }

    /// The attention output of query `i` of a call, and what can be read of it.
    fn attend(&self, il: usize, call: &RangeCall, i: usize, q: &[Vec<f64>]) -> (Vec<f64>, Read) {
        let row = call.rows[i].0 as usize;
        let last = call.both_ways_until.map_or(row, |row| row.0 as usize);
        let (keys, mut cells): (Vec<usize>, Vec<Cell>) = self.cells[il]
            .range(..=last)
            .map(|(&row, cell)| (row, cell.clone()))
            .unzip();
        let mut visible = vec![true; keys.len()];
        let index = |row: &Row| keys.iter().position(|&key| key == row.0 as usize);
        match &call.attention {
            CallAttention::Plain => {}
            CallAttention::Zero { hidden } => {
                for j in hidden.iter().filter_map(index) {
                    cells[j].v.iter_mut().for_each(|head| head.fill(0.0));
                }
            }
            CallAttention::Merge { hidden } => {
                if let Some(first) = index(&hidden[0]) {
                    let value = cells[first].v.clone();
                    for j in hidden.iter().filter_map(index) {
                        cells[j].v.clone_from(&value);
                    }
                }
            }
            CallAttention::Mask { hidden, affected } => {
                if affected[i] {
                    hidden.iter().filter_map(index).for_each(|j| visible[j] = false);
                }
                if !visible.contains(&true) {
                    visible[keys.iter().position(|&key| key == row).expect("a row has a cell")] = true;
                }
            }
        }
        let weights = self.reference.attention_weights(q, &cells, &visible);
        let o = self.reference.attention_output(&weights, &cells);
        let mean = |j: usize| weights.iter().map(|head| head[j]).sum::<f64>() / weights.len() as f64;
        let read = Read {
            contribution: self.closed_form(&weights, &keys, &cells, &o),
            attention: keys.iter().enumerate().map(|(j, &key)| (key, mean(j))).collect(),
        };
        (o, read)
    }

    fn closed_form(&self, weights: &[Vec<f64>], keys: &[usize], cells: &[Cell], o: &[f64]) -> RowProbe {
        let n_rows = self.rows.len();
        let mut probe = RowProbe {
            norm2: vec![f32::NAN; n_rows],
            dot: vec![f32::NAN; n_rows],
            output_norm2: dot(o, o) as f32,
        };
        let o_of = |h: usize| &o[h * self.reference.n_embd_head..][..self.reference.n_embd_head];
        for (j, &key) in keys.iter().enumerate() {
            let (mut norm2, mut o_dot) = (0.0, 0.0);
            for (h, a) in weights.iter().enumerate() {
                let v = &cells[j].v[self.reference.kv_head(h)];
                norm2 += a[j] * a[j] * dot(v, v);
                o_dot += a[j] * dot(o_of(h), v);
            }
            (probe.norm2[key], probe.dot[key]) = (norm2 as f32, o_dot as f32);
        }
        probe
    }
}

impl LayerRanges for Dropping<'_> {
    type Error = Infallible;

    fn run(&mut self, call: &RangeCall) -> Result<(), Infallible> {
        assert!(call.rows.windows(2).all(|pair| pair[0] < pair[1]));
        for il in call.layers.clone() {
            self.run_layer(il, call);
        }
        Ok(())
    }

    fn probe(&mut self, il: usize) -> Result<RowProbe, Infallible> {
        let (probed, probe) = self.probe.clone().expect("a layer was probed");
        assert_eq!(probed, il);
        Ok(probe)
    }

    fn attention(&mut self, il: usize) -> Result<Vec<f32>, Infallible> {
        let weight = self.attention[il].iter().enumerate();
        let has_cell = |row| self.cells[il].contains_key(&row);
        Ok(weight
            .map(|(row, &weight)| if has_cell(row) { weight as f32 } else { f32::NAN })
            .collect())
    }

    fn rewind(&mut self, _: usize) -> Result<(), Infallible> {
        unreachable!("no layers are run ahead")
    }

    fn branch(&mut self, _: usize, _: &[Row], _: &[Row]) -> Result<Vec<Row>, Infallible> {
        unreachable!("nothing is shared here")
    }

    fn evict(&mut self, layers: Range<usize>, rows: Range<usize>) -> Result<(), Infallible> {
        for cells in &mut self.cells[layers] {
            cells.retain(|row, _| !rows.contains(row));
        }
        Ok(())
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}
