//! Rust closures behind C callbacks.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A closure that hears of progress in `0.0 ..= 1.0` and says whether to go on.
pub(super) struct Progress<'a> {
    closure: &'a mut dyn FnMut(f32) -> bool,
    panic: Option<Box<dyn Any + Send>>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(closure: &'a mut dyn FnMut(f32) -> bool) -> Self {
        Self { closure, panic: None }
    }

    /// What C hands back to [`Progress::callback`].
    pub(super) fn user_data(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    /// To be called when C has returned: goes on with a panic of the closure.
    pub(super) fn finish(self) {
        if let Some(panic) = self.panic {
            resume_unwind(panic);
        }
    }

    /// The `llama_progress_callback` and `mtmd_progress_callback`.
    ///
    /// # Safety
    /// `user_data` comes from [`Progress::user_data`] of a value that is alive and used by nobody else meanwhile.
    pub(super) unsafe extern "C" fn callback(progress: f32, user_data: *mut c_void) -> bool {
        // SAFETY: by this function's contract. The caller of C holds the value on its stack across the call, and
        // llama_model_loader::load_all_data and clip's loader call back on the calling thread.
        let this = unsafe { &mut *user_data.cast::<Progress<'_>>() };
        if this.panic.is_some() {
            return false;
        }
        catch_unwind(AssertUnwindSafe(|| (this.closure)(progress))).unwrap_or_else(|panic| {
            this.panic = Some(panic);
            false
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_waits_until_c_has_returned() {
        let mut closure = |_: f32| -> bool { panic!("from the closure") };
        let mut progress = Progress::new(&mut closure);
        let user_data = progress.user_data();
        // SAFETY: `progress` is alive and not used between the two calls.
        let go_on = unsafe {
            [
                Progress::callback(0.1, user_data),
                Progress::callback(0.2, user_data),
            ]
        };
        assert_eq!(go_on, [false, false]);
        let panic = catch_unwind(AssertUnwindSafe(|| progress.finish())).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"from the closure"));
    }
}
