//! The model that ships on every kind of device: each policy decides and answers as it does on the CPU, however the model is
//! computed there; and the report says what was computed elsewhere than on the device of its layer.

use super::common::policies::policies;
use super::*;
use visipruner::engine::{AnyPolicy, Cuts};
use visipruner::policy::PolicyOverrides;
use visipruner::report::{Fallback, RunReport};

test_device!(
    every_policy_answers_as_on_the_cpu,
    what_is_computed_elsewhere_is_told,
);

/// All layers.
const ALL: i32 = -1;
/// Layers of the model that ships, and half of them.
const N_LAYER: u64 = 10;
const HALF: i32 = 5;
/// How far attention weights are apart, relative to the larger, that kernels of half precision may rank either way.
const TIE: f64 = 0.02;
/// Tokens of an answer.
const N_PREDICT: usize = 6;

/// The model that ships, and its projector.
struct Shipped {
    model: Model,
    projector: Projector,
}

impl Shipped {
    fn on(device: Device, n_gpu_layers: i32) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let options = ModelOptions {
            n_gpu_layers,
            devices: Some(device.names()),
            ..ModelOptions::default()
        };
        let path = folder.join("tiny-llava-shapes-f16.gguf");
        let model = Model::load(&path, &options, |_| Continue(())).expect("the model loads");
        let options = ProjectorOptions {
            use_gpu: device.name().is_some(),
            device: device.name(),
            n_threads: Some(1),
            ..ProjectorOptions::default()
        };
        let path = folder.join("tiny-llava-shapes-mmproj-f16.gguf");
        let projector = Projector::load(&path, &model, &options, |_| Continue(())).expect("it loads");
        Self { model, projector }
    }

    fn answer(&mut self, options: &SessionOptions, policy: &PolicyConfig) -> Outcome {
        let request = Request {
            images: vec![picture(96, 96, 3)],
            policy: Some(AnyPolicy::Config(policy.clone())),
            n_predict: N_PREDICT,
            ignore_eos: true,
            report_logits: true,
            report_probes: true,
            ..Request::new(marked("USER: <image>\nWhat color is the circle? ASSISTANT:"))
        };
        Session::new(&self.model, options.clone())
            .expect("a session")
            .generate(Some(&mut self.projector), &request, ignore)
            .expect("an answer")
    }
}

fn options() -> SessionOptions {
    SessionOptions {
        cuts: Cuts::EveryLayer,
        n_threads: Some(1),
        n_ctx: Some(256),
        ..SessionOptions::default()
    }
}

/// Ways to compute it, by name: layers on the device, and options.
fn ways() -> [(&'static str, i32, SessionOptions); 5] {
    let with = |flash_attn, kv_type| SessionOptions {
        flash_attn,
        type_k: kv_type,
        type_v: kv_type,
        ..options()
    };
    let host_cache = SessionOptions {
        offload_kqv: false,
        ..options()
    };
    [
        ("flash attention", ALL, with(FlashAttention::On, KvType::F16)),
        ("no flash attention", ALL, with(FlashAttention::Off, KvType::F16)),
        ("q8_0 cache", ALL, with(FlashAttention::On, KvType::Q8_0)),
        ("half of the layers", HALF, options()),
        ("cache of the host", ALL, host_cache),
    ]
}

/// The policy that was calibrated for the model, and every kind.
fn calibrated_and_others() -> Vec<PolicyConfig> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-llava-shapes.policy.toml");
    let calibrated = PolicyOverrides::from_file(&file)
        .and_then(|fields| fields.apply(&PolicyConfig::Off))
        .expect("a policy");
    [calibrated].into_iter().chain(policies()).collect()
}

fn every_policy_answers_as_on_the_cpu(device: Device) {
    let mut on_cpu = Shipped::on(Device::Cpu, 0);
    let (mut n, mut n_fused, mut n_ties, mut largest) = (0, 0, 0, 0.0_f32);
    for (way, n_gpu_layers, options) in ways() {
        let mut on_device = Shipped::on(device, n_gpu_layers);
        for policy in calibrated_and_others() {
            let what = format!("{way}, {policy:?}");
            let found = on_device.answer(&options, &policy);
            let expected = on_cpu.answer(&options, &policy);
            n += 1;
            if device != Device::Cpu && is_tie(&found.report, &expected.report) {
                n_ties += 1;
                continue;
            }
            largest = largest.max(assert_same(device, &found.report, &expected.report, &what));
            n_fused += usize::from(found.report.fusion_layer.is_some());
        }
    }
    eprintln!("{device:?}: {n} answers, {n_ties} after a tie, logits within {largest:.1e}");
    assert!(n_fused > ways().len(), "{n_fused} of {n} find a fusion layer");
    assert!(n_ties * 10 <= n, "{n_ties} of {n} end in a tie");
}

/// Returns how far the logits are apart.
fn assert_same(device: Device, found: &RunReport, expected: &RunReport, what: &str) -> f32 {
    assert_eq!(found.entered, expected.entered, "{what}");
    assert_eq!(found.drops, expected.drops, "{what}");
    assert_eq!(found.fusion_layer, expected.fusion_layer, "{what}");
    assert_eq!(found.exit_layer, expected.exit_layer, "{what}");
    let [logits, expected_logits] = [found, expected].map(|report| report.logits.as_ref().expect("logits"));
    let difference = device.assert_same(logits, expected_logits, what);
    assert_eq!(found.text, expected.text, "{what}");
    assert_eq!(found.kv_final, expected.kv_final, "{what}");
    difference
}

/// Whether the first drop that differs keeps as many tokens, and swaps some that the attention on the CPU ranks alike:
/// which of them goes on is then a matter of rounding, and what follows is another computation.
fn is_tie(found: &RunReport, expected: &RunReport) -> bool {
    let mut drops = found.drops.iter().zip(&expected.drops);
    let Some((found, drop)) = drops.find(|(found, expected)| found != expected) else {
        return false;
    };
    let Some(layer) = drop.layer.map(|il| &expected.layers[il]) else {
        return false;
    };
    let (Some(tokens), Some(attention)) = (&layer.vision, &layer.attention) else {
        return false;
    };
    let is_swapped = |token: &u32| found.kept.contains(token) != drop.kept.contains(token);
    let ranks = tokens
        .iter()
        .zip(attention)
        .filter(|(token, _)| is_swapped(token));
    let swapped: Vec<f64> = ranks.map(|(_, rank)| *rank).collect();
    let (least, most) = swapped.iter().fold((f64::MAX, 0.0), |(least, most), &rank| {
        (rank.min(least), rank.max(most))
    });
    found.layer == drop.layer && found.n_kept == drop.n_kept && most - least < TIE * most
}

/// Of a cache in the host's memory each layer writes keys and values there, for the prompt and for each token that follows;
/// a device that holds everything computes everything, also what we add to attention.
fn what_is_computed_elsewhere_is_told(device: Device) {
    let [whole, plain, .., half, host_cache] = ways();
    let told = |(_, n_gpu_layers, options): &(&str, i32, SessionOptions), policies: &[PolicyConfig]| {
        let mut shipped = Shipped::on(device, *n_gpu_layers);
        let told = |policy| shipped.answer(options, policy).report.compute.fallbacks;
        policies.iter().flat_map(told).collect::<Vec<Fallback>>()
    };
    assert_eq!(told(&whole, &calibrated_and_others()), Vec::<Fallback>::new());
    assert_eq!(told(&plain, &calibrated_and_others()), Vec::<Fallback>::new());

    let schedule = [fixed(3, 5, 6)];
    let n_writes = 2 * N_LAYER * N_PREDICT as u64;
    let (half, host_cache) = (told(&half, &schedule), told(&host_cache, &schedule));
    if device == Device::Cpu {
        assert_eq!((half, host_cache), (Vec::new(), Vec::new()));
        return;
    }
    let names = ["CPU".to_owned(), device.name().expect("a device")];
    assert!(
        half.iter().all(|fallback| names.contains(&fallback.device)),
        "{half:?}"
    );
    assert!(
        !half.is_empty(),
        "large products of the CPU's layers are lent to the device"
    );
    let writes = Fallback {
        op: "SET_ROWS".to_owned(),
        device: "CPU".to_owned(),
        n: n_writes,
    };
    assert!(host_cache.contains(&writes), "{host_cache:?}");
}
