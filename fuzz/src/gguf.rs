//! Headers of GGUF files, as models and as projectors. The input is a header; the file goes on with zeros.

use visipruner::gguf::{Gguf, open_llm, open_projector};

use super::folder;

pub fn check(data: &[u8]) {
    let folder = folder::folder();
    let path = folder::long_file(&folder, "model.gguf", data);
    let Ok(gguf) = Gguf::open(&path) else { return };
    let mut end = gguf.data_offset();
    for tensor in gguf.tensors() {
        assert!(
            tensor.file_offset >= gguf.data_offset(),
            "{}: in the header",
            tensor.name
        );
        assert!(
            tensor.file_offset.is_multiple_of(gguf.alignment()),
            "{}: not aligned",
            tensor.name
        );
        end = end.max(tensor.file_offset.checked_add(tensor.n_bytes).expect("an end"));
        assert!(std::ptr::eq(
            gguf.tensor(&tensor.name).expect("by its name"),
            tensor
        ));
    }
    assert!(end <= gguf.file_bytes());
    let (llm, projector) = (open_llm(&path), open_projector(&path));
    assert!(llm.is_err() || projector.is_err(), "both a model and a projector");
    for error in [llm.err(), projector.err()].into_iter().flatten() {
        assert!(!error.to_string().is_empty());
    }
}
