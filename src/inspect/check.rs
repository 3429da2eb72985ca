//! Whether the parts of an inspection fit each other.

use super::data::{InspectedImage, InspectedLayer, Inspection};
use super::error::InspectError;

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

impl Inspection {
    /// Checks that every layer is there, that lists are as long as there are vision tokens, that numbers are finite
    /// and that tokens and layers that are named exist.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), InspectError> {
        let expected = self.n_layer.max(1);
        let found = self.layers.len();
        if found != expected {
            let what = "the dense run";
            return Err(InspectError::Layers {
                what,
                found,
                expected,
            });
        }
        let n_vision = self.n_vision();
        if self.images.is_empty() {
            return Err(InspectError::NoImage);
        }
        for (image, picture) in self.images.iter().enumerate() {
            check_image(image, picture, n_vision)?;
        }
        for (il, layer) in self.layers.iter().enumerate() {
            check_layer(il, layer, n_vision)?;
        }
        self.check_policy(n_vision)?;
        for other in &self.others {
            check_tokens(&other.policy, &other.kept, n_vision)?;
            let what = || format!("the last layer before {} was done", other.policy);
            check_index(what, other.after_layer, self.n_layer)?;
        }
        Ok(())
    }

    fn check_policy(&self, n_vision: usize) -> Result<(), InspectError> {
        let Some(policy) = &self.policy else { return Ok(()) };
        if policy.layers.len() != self.n_layer {
            return Err(InspectError::Layers {
                what: "the pruned run",
                found: policy.layers.len(),
                expected: self.n_layer,
            });
        }
        for (il, value) in policy.layers.iter().map(|layer| layer.min_cos).enumerate() {
            check_finite(il, "the smallest cosine", value.as_slice())?;
        }
        check_index(|| String::from("fusion_layer"), policy.fusion_layer, self.n_layer)?;
        check_index(|| String::from("kept_after"), policy.kept_after, self.n_layer)?;
        check_index(|| String::from("exit_layer"), policy.exit_layer, self.n_layer)?;
        check_tokens(
            &policy.label,
            policy.kept.as_deref().unwrap_or_default(),
            n_vision,
        )
    }
}

fn check_image(image: usize, picture: &InspectedImage, n_vision: usize) -> Result<(), InspectError> {
    let problem = |problem: String| InspectError::Image {
        image,
        name: picture.name.clone(),
        problem,
    };
    if !picture.png.starts_with(PNG_SIGNATURE) {
        return Err(problem(String::from("its data is not a PNG file")));
    }
    if picture.width == 0 || picture.height == 0 {
        return Err(problem(format!(
            "its size is {} x {}",
            picture.width, picture.height
        )));
    }
    let n_cells = picture.n_cols.saturating_mul(picture.n_rows);
    let end = picture.first_token.saturating_add(n_cells);
    if n_cells == 0 || end > n_vision {
        return Err(problem(format!(
            "{} x {} cells from vision token {} on, of {n_vision}",
            picture.n_cols, picture.n_rows, picture.first_token
        )));
    }
    Ok(())
}

fn check_layer(il: usize, layer: &InspectedLayer, n_vision: usize) -> Result<(), InspectError> {
    let lists = [
        ("attention", &layer.attention),
        ("norm", &layer.norm),
        ("cos", &layer.cos),
        ("value_l1", &layer.value_l1),
    ];
    for (what, values) in lists {
        if values.len() != n_vision {
            let found = values.len();
            let expected = n_vision;
            return Err(InspectError::Tokens {
                il,
                what,
                found,
                expected,
            });
        }
        check_finite(il, what, values)?;
    }
    check_finite(il, "text_value_l1", &layer.text_value_l1)?;
    check_finite(il, "output_norm", &[layer.output_norm])?;
    for (what, words) in [("top", &layer.top), ("value_top", &layer.value_top)] {
        let probabilities: Vec<f64> = words.iter().map(|word| word.probability).collect();
        check_finite(il, what, &probabilities)?;
    }
    Ok(())
}

fn check_finite(il: usize, what: &'static str, values: &[f64]) -> Result<(), InspectError> {
    match values.iter().find(|value| !value.is_finite()) {
        Some(&value) => Err(InspectError::NotFinite { il, what, value }),
        None => Ok(()),
    }
}

fn check_tokens(policy: &str, kept: &[u32], n_vision: usize) -> Result<(), InspectError> {
    let greatest = kept.iter().max().map(|&token| token as usize);
    check_index(|| format!("a token kept by {policy}"), greatest, n_vision)
}

fn check_index(what: impl Fn() -> String, found: Option<usize>, limit: usize) -> Result<(), InspectError> {
    match found {
        Some(found) if found >= limit => Err(InspectError::OutOfRange {
            what: what(),
            found,
            limit,
        }),
        _ => Ok(()),
    }
}
