//! A projector whose tensors contradict each other is refused before llama.cpp sees it, for it would abort the process.

mod common;

use common::random_model::RandomProjector;
use tempfile::TempDir;
use visipruner::gguf::{GgmlType, Gguf, GgufError, GgufWriter, Problem, open_projector};

/// A good projector, as it is read back.
struct Good {
    folder: TempDir,
    gguf: Gguf,
}

impl Good {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("good.gguf");
        RandomProjector::new(1, 32).write(&path);
        let (gguf, _) = open_projector(&path).expect("a good projector passes");
        Good { folder, gguf }
    }

    /// Opens a copy in which `change` was made to the writer's metadata, and to each tensor (`None`: left out).
    fn changed(
        &self,
        metadata: impl Fn(&mut GgufWriter),
        tensor: impl Fn(&str, Vec<usize>, GgmlType) -> Option<(Vec<usize>, GgmlType)>,
    ) -> Result<(), GgufError> {
        let mut writer = GgufWriter::new();
        for (key, value) in self.gguf.metadata() {
            writer.set(key, value.clone());
        }
        metadata(&mut writer);
        for info in self.gguf.tensors() {
            let dims = info.dims.iter().map(|&n| n as usize).collect();
            if let Some((dims, ty)) = tensor(&info.name, dims, info.ty) {
                writer.tensor(&info.name, &dims, ty);
            }
        }
        let path = self.folder.path().join("changed.gguf");
        writer
            .write_file(&path, |tensor| vec![0.0; tensor.n_elements()])
            .unwrap();
        open_projector(&path).map(|_| ())
    }

    fn with_tensor(
        &self,
        name: &str,
        change: impl Fn(Vec<usize>, GgmlType) -> Option<(Vec<usize>, GgmlType)>,
    ) -> Result<(), GgufError> {
        self.changed(
            |_| (),
            |n, dims, ty| {
                if n == name {
                    change(dims, ty)
                } else {
                    Some((dims, ty))
                }
            },
        )
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.gguf.tensors().iter().map(|info| info.name.as_str())
    }
}

#[test]
fn every_tensor_of_another_shape_is_refused() {
    let good = Good::new();
    for name in good.names() {
        // rows that are longer, and more of them
        let longer = good.with_tensor(name, |mut dims, ty| {
            dims[0] += 1;
            Some((dims, ty))
        });
        assert!(longer.is_err(), "{name} with longer rows");
        let squared = good.with_tensor(name, |dims, ty| Some(([dims, vec![2, 2]].concat(), ty)));
        let may_have_more_rows = name == "v.position_embd.weight";
        assert_eq!(
            squared.is_ok(),
            may_have_more_rows,
            "{name} with more dimensions: {squared:?}"
        );
    }
}

#[test]
fn tensors_that_the_graph_needs_must_be_there() {
    let good = Good::new();
    for name in good.names() {
        // what llama.cpp tests for before it uses it; without the class embedding there is a position too many
        let optional = name.contains("ln")
            || name == "v.class_embd"
            || (name.starts_with("v.blk") && name.ends_with("bias"));
        match good.with_tensor(name, |_, _| None) {
            Ok(()) => assert!(optional, "{name} was not missed"),
            Err(GgufError {
                problem: Problem::MissingTensor { tensor },
                ..
            }) => assert!(!optional, "{name} is optional, yet {tensor} was missed"),
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn vectors_must_be_f32() {
    let good = Good::new();
    for info in good.gguf.tensors().iter().filter(|info| info.dims.len() == 1) {
        let result = good.with_tensor(&info.name, |dims, _| Some((dims, GgmlType::F16)));
        assert!(
            matches!(
                &result,
                Err(GgufError {
                    problem: Problem::TensorType { .. },
                    ..
                })
            ),
            "{}: {result:?}",
            info.name
        );
    }
    let patches = good.with_tensor("v.patch_embd.weight", |dims, _| Some((dims, GgmlType::BF16)));
    assert!(
        patches
            .unwrap_err()
            .to_string()
            .contains("only f32 or f16 works here")
    );
}

#[test]
fn numbers_in_the_metadata_must_fit_the_tensors() {
    let good = Good::new();
    let keep = |_: &str, dims, ty| Some((dims, ty));
    for (key, value) in [
        ("clip.vision.image_size", 40u32),
        ("clip.vision.patch_size", 4),
        ("clip.vision.embedding_length", 128),
        ("clip.vision.block_count", 4),
        ("clip.vision.attention.head_count", 7),
        ("clip.vision.attention.head_dim", 16),
    ] {
        let result = good.changed(|writer| _ = writer.set(key, value), keep);
        assert!(result.is_err(), "{key} = {value}");
    }
    let two_layers = good.changed(
        |writer| _ = writer.set("clip.vision.feature_layer", vec![1, 2]),
        keep,
    );
    assert!(
        two_layers
            .unwrap_err()
            .to_string()
            .contains("'mm.0.weight' is 64 x 32, expected 128 x 32")
    );
    let one_layer_twice = good.changed(
        |writer| _ = writer.set("clip.vision.feature_layer", vec![2, 2]),
        keep,
    );
    assert!(one_layer_twice.is_ok(), "{one_layer_twice:?}");
    let mobile = good.changed(|writer| _ = writer.set("clip.projector_type", "ldp"), keep);
    assert!(
        mobile
            .unwrap_err()
            .to_string()
            .contains("24 times the patch size")
    );
}

#[test]
fn what_is_added_under_a_root_is_not_negative() {
    let good = Good::new();
    let keep = |_: &str, dims, ty| Some((dims, ty));
    let key = "clip.vision.attention.layer_norm_epsilon";
    for number in [-1e-6f32, f32::NAN, f32::INFINITY] {
        let result = good.changed(|writer| _ = writer.set(key, number), keep);
        let said = result.unwrap_err().to_string();
        assert!(said.contains(key) && said.contains("not negative"), "{said}");
    }
    good.changed(|writer| _ = writer.set(key, 0.0f32), keep).unwrap();
}

#[test]
fn old_names_of_the_feed_forward_matrices_pass() {
    let good = Good::new();
    let swapped = good.changed(
        |_| (),
        |name, dims, ty| {
            let dims = match (name.contains("ffn_"), name.ends_with("weight")) {
                (true, true) => vec![dims[1], dims[0]],
                (true, false) => vec![if name.contains("ffn_up") { 64 } else { 128 }],
                _ => dims,
            };
            Some((dims, ty))
        },
    );
    assert!(swapped.is_ok(), "{swapped:?}");
}
