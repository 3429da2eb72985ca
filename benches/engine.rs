//! What the engine's mechanisms cost, each against one graph of the whole prompt: cuts, probes, dropped rows, masks.
//! On a model of TinyLlama's shape with two layers and random weights, named by the first device that llama.cpp knows.

use std::ops::ControlFlow::Continue;

use criterion::{Criterion, criterion_group, criterion_main};
use visipruner::engine::{
    EncodedPrompt, IMAGE_MARKERS, Image, Model, ModelOptions, Part, Projector, ProjectorOptions, Prompt,
    Request, Session, SessionOptions, devices, encode,
};
use visipruner::policy::{
    Decision, LayerPlan, Outcome, Policy, PolicyError, PromptLayout, Reading, StagePolicy, Statistic,
    TextToVision, VisionAttention, VisionIndex,
};
use visipruner::synth::{Mix, Shape, Synth};

const N_LAYER: usize = 4;

/// A prefill of which everything is known beforehand.
#[derive(Clone, Default)]
struct Script {
    /// Cuts before every layer.
    is_cut: bool,
    probe: Option<Statistic>,
    text_to_vision: TextToVision,
    /// Vision tokens that enter the second layer.
    keep: Option<usize>,
}

impl Policy for Script {
    fn name(&self) -> String {
        "script".to_owned()
    }

    fn cuts(&self, n_layer: usize) -> Vec<usize> {
        if self.is_cut {
            (1..n_layer).collect()
        } else {
            Vec::new()
        }
    }

    fn build(&self, _n_layer: usize, _layout: &PromptLayout) -> Result<Box<dyn StagePolicy>, PolicyError> {
        Ok(Box::new(self.clone()))
    }
}

impl StagePolicy for Script {
    fn plan(&self, _il: usize) -> LayerPlan {
        LayerPlan {
            attention: VisionAttention {
                text_to_vision: self.text_to_vision,
                ..VisionAttention::default()
            },
            probe: self.probe,
            decides: self.is_cut,
            ..LayerPlan::default()
        }
    }

    fn decide(&mut self, il: usize, _reading: Option<&Reading>) -> Decision {
        match self.keep {
            Some(n) if il == 0 => Decision::Keep((0..n as u32).map(VisionIndex).collect()),
            _ => Decision::KeepAll,
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome::default()
    }
}

/// The model, and a prompt of 624 rows with one picture.
fn setup() -> (Model, EncodedPrompt, Request) {
    let folder = tempfile::tempdir().expect("a folder");
    let shape = Shape::named("tinyllama-1.1b").expect("a shape");
    let synth = Synth::new(shape)
        .with_layers(N_LAYER)
        .expect("the shape has more")
        .with_mix(Mix::named("Q4_K_M").expect("a mix"));
    let files = synth
        .write(folder.path(), false, |_| Continue(()))
        .expect("the model is written");
    let model = Model::load(&files.model, &ModelOptions::default(), |_| Continue(())).expect("it loads");
    let mut projector = Projector::load(&files.mmproj, &model, &ProjectorOptions::default(), |_| {
        Continue(())
    })
    .expect("it loads");
    let image = Image::from_rgb8(336, 336, vec![127; 336 * 336 * 3]).expect("a picture");
    let prompt = format!("{}<image>{}", " a".repeat(34), " a".repeat(13));
    let request = Request {
        images: vec![image],
        n_predict: 0,
        ..Request::new(Prompt::Raw(Part::split(&prompt, &IMAGE_MARKERS)))
    };
    let encoded = encode(&model, Some(&mut projector), &request, |_| Continue(()))
        .expect("the picture is encoded")
        .expect("nothing stops it");
    (model, encoded, request)
}

fn mechanisms(c: &mut Criterion) {
    let (model, prompt, request) = setup();
    let cut = Script {
        is_cut: true,
        ..Script::default()
    };
    let scripts = [
        ("one graph", Script::default()),
        ("cut before every layer", cut.clone()),
        (
            "contributions read in every layer",
            Script {
                probe: Some(Statistic::Contribution),
                ..cut.clone()
            },
        ),
        (
            "attention read in every layer",
            Script {
                probe: Some(Statistic::LastAttention),
                ..cut.clone()
            },
        ),
        (
            "10 of 576 tokens after the first layer",
            Script {
                keep: Some(10),
                ..cut.clone()
            },
        ),
        (
            "text to vision masked before softmax",
            Script {
                text_to_vision: TextToVision::Mask,
                ..Script::default()
            },
        ),
        (
            "text to vision zeroed after softmax",
            Script {
                text_to_vision: TextToVision::Zero,
                ..Script::default()
            },
        ),
    ];
    let backend = devices().swap_remove(0);
    let backend = backend.name.to_lowercase();
    let n_rows = prompt.layout().n_rows;
    let mut group = c.benchmark_group(format!("{backend}/prefill of {n_rows} rows, {N_LAYER} layers"));
    group.sample_size(10);
    let options = SessionOptions {
        n_ctx: Some(1024),
        ..SessionOptions::default()
    };
    let mut bench = |name: &str, mut session: Session| {
        group.bench_function(name, |b| {
            b.iter(|| {
                session
                    .generate_encoded(&prompt, &request, |_| Continue(()))
                    .expect("it runs")
            });
        });
    };
    bench("stock", Session::new(&model, options.clone()).expect("a session"));
    for (name, script) in scripts {
        let session = Session::with_policy(&model, options.clone(), script).expect("a session");
        bench(name, session);
    }
    group.finish();
}

criterion_group!(benches, mechanisms);
criterion_main!(benches);
