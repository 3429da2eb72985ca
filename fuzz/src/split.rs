//! Models in several files. The input: the length of the first header in two bytes, then the headers.

use visipruner::gguf::{Gguf, later_parts, open_llm, open_projector};

use super::folder;

pub fn check(data: &[u8]) {
    let Some((n_first, headers)) = data.split_first_chunk::<2>() else {
        return;
    };
    let n_first = usize::from(u16::from_le_bytes(*n_first)).min(headers.len());
    let (first, second) = headers.split_at(n_first);
    let folder = folder::folder();
    let path = folder::long_file(&folder, "m-00001-of-00002.gguf", first);
    let later = folder::long_file(&folder, "m-00002-of-00002.gguf", second);
    let parts = Gguf::open(&path).and_then(|first| later_parts(&first));
    if let Ok(parts) = &parts {
        assert!(parts.len() <= 1, "a part that is not there");
    }
    if let Ok((gguf, shape)) = open_llm(&path) {
        assert!(shape.file_bytes >= gguf.file_bytes());
    }
    for path in [&path, &later] {
        let _ = open_projector(path);
    }
}
