//! What is left of a benchmark that ends early: whatever was complete before Ctrl-C or an error counts.

use crate::cli::error::Error;

/// What came of a piece of work.
pub struct Ended<T> {
    /// What was complete; `None` if nothing was.
    pub complete: Option<T>,
    /// What ended it early, other than Ctrl-C.
    pub failed: Option<Error>,
}

/// Runs up to `n_rounds` rounds. A round that was interrupted (`None`) or failed is the last, and does not count.
pub fn rounds<T>(
    n_rounds: usize,
    mut round: impl FnMut(usize) -> Result<Option<T>, Error>,
) -> (Vec<T>, Option<Error>) {
    let mut complete = Vec::new();
    for i in 0..n_rounds {
        match round(i) {
            Ok(Some(runs)) => complete.push(runs),
            Ok(None) => break,
            Err(error) => return (complete, Some(error)),
        }
    }
    (complete, None)
}

/// Measures one case after the other, up to the first that is not complete in any round or that failed.
///
/// # Errors
/// What failed, or [`Error::Interrupted`], if nothing is complete.
pub fn cases<T>(
    n_images: &[usize],
    mut case: impl FnMut(usize) -> Result<Ended<T>, Error>,
) -> Result<(Vec<T>, Option<Error>), Error> {
    let mut complete = Vec::new();
    let mut failed = None;
    for &n_images in n_images {
        let ended = case(n_images).unwrap_or_else(|error| Ended {
            complete: None,
            failed: Some(error),
        });
        let is_last = ended.complete.is_none() || ended.failed.is_some();
        complete.extend(ended.complete);
        if is_last {
            failed = ended.failed;
            break;
        }
    }
    match (complete.is_empty(), failed) {
        (true, failed) => Err(failed.unwrap_or(Error::Interrupted)),
        (false, failed) => Ok((complete, failed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(what: &str) -> Error {
        Error::Usage(what.to_owned())
    }

    fn text(error: Option<Error>) -> Option<String> {
        error.map(|error| error.to_string())
    }

    #[test]
    fn rounds_before_an_error_count() {
        let (complete, failed) = rounds(5, |i| if i < 3 { Ok(Some(i)) } else { Err(broken("third")) });
        assert_eq!(
            (complete, text(failed)),
            (vec![0, 1, 2], Some("third".to_owned()))
        );
        let (complete, failed) = rounds(5, |i| Ok((i < 2).then_some(i)));
        assert_eq!((complete, text(failed)), (vec![0, 1], None));
        let (complete, failed) = rounds(2, |i| Ok(Some(i)));
        assert_eq!((complete, text(failed)), (vec![0, 1], None));
    }

    fn whole(case: usize) -> Result<Ended<usize>, Error> {
        Ok(Ended {
            complete: Some(case),
            failed: None,
        })
    }

    #[test]
    fn cases_before_an_error_count() {
        let mut asked = Vec::new();
        let measured = cases(&[1, 2, 5], |case| {
            asked.push(case);
            if case == 1 {
                whole(case)
            } else {
                Err(broken("no room"))
            }
        });
        let (complete, failed) = measured.expect("one is complete");
        assert_eq!((complete, text(failed)), (vec![1], Some("no room".to_owned())));
        assert_eq!(asked, [1, 2]);
    }

    #[test]
    fn rounds_of_the_case_that_failed_count_too() {
        let measured = cases(&[1, 2, 5], |case| {
            let failed = (case == 2).then(|| broken("in round 3"));
            Ok(Ended {
                complete: Some(case),
                failed,
            })
        });
        let (complete, failed) = measured.expect("two are complete");
        assert_eq!(
            (complete, text(failed)),
            (vec![1, 2], Some("in round 3".to_owned()))
        );
    }

    #[test]
    fn nothing_complete_is_an_error() {
        let none = |failed: Option<Error>| {
            Ok(Ended::<usize> {
                complete: None,
                failed,
            })
        };
        let interrupted = cases(&[1, 2], |_| none(None));
        assert!(matches!(interrupted, Err(Error::Interrupted)));
        let failed = cases(&[1, 2], |_| none(Some(broken("at once"))));
        assert_eq!(text(failed.err()), Some("at once".to_owned()));
        let (complete, failed) =
            cases(&[1, 2], |case| if case == 1 { whole(case) } else { none(None) }).expect("one is complete");
        assert_eq!((complete, text(failed)), (vec![1], None));
    }
}
