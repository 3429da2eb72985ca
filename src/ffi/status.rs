//! What a C call returned, as a `Result`.

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;

use super::{log, sys};

/// Why a call failed, from its status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The KV cache has no room.
    NoSlot,
    /// The abort callback said so.
    Aborted,
    /// The arguments were refused; nothing was computed.
    BadArgument,
    /// Memory could not be allocated.
    AllocFailed,
    /// The memory of this model cannot do that.
    Unsupported,
    /// Another machine held a part of the model, and is gone.
    DeviceLost,
    /// The computation failed, or the function has no finer status to give.
    Failed,
}

/// A C call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{call}: {}", if message.is_empty() { "failed without saying why" } else { message })]
pub(crate) struct Error {
    /// The C function.
    pub(crate) call: &'static str,
    /// Its status.
    pub(crate) status: Status,
    /// What the library said, in one line. May be empty.
    pub(crate) message: String,
}

/// A C return value that tells success from failure.
pub(super) trait Returned {
    /// What the caller gets on success.
    type Ok;
    /// The value, or why there is none.
    fn check(self) -> Result<Self::Ok, Status>;
}

/// A `vp_status`.
pub(super) struct VpStatus(pub(super) i32);

impl Returned for VpStatus {
    type Ok = ();
    fn check(self) -> Result<(), Status> {
        match self.0 {
            sys::VP_OK => Ok(()),
            sys::VP_NO_SLOT => Err(Status::NoSlot),
            sys::VP_ABORTED => Err(Status::Aborted),
            sys::VP_BAD_ARGUMENT => Err(Status::BadArgument),
            sys::VP_ALLOC_FAILED => Err(Status::AllocFailed),
            sys::VP_UNSUPPORTED => Err(Status::Unsupported),
            sys::VP_DEVICE_LOST => Err(Status::DeviceLost),
            _ => Err(Status::Failed),
        }
    }
}

/// 0 for success, anything else for failure: `mtmd.h`.
pub(super) struct ZeroIsOk(pub(super) i32);

impl Returned for ZeroIsOk {
    type Ok = ();
    fn check(self) -> Result<(), Status> {
        if self.0 == 0 { Ok(()) } else { Err(Status::Failed) }
    }
}

/// A handle, NULL on failure.
impl<T> Returned for *mut T {
    type Ok = NonNull<T>;
    fn check(self) -> Result<NonNull<T>, Status> {
        NonNull::new(self).ok_or(Status::Failed)
    }
}

/// Makes one C call. What the library logged or left in `vp_last_error()` during the call becomes the error's message.
pub(super) fn call<R: Returned>(name: &'static str, f: impl FnOnce() -> R) -> Result<R::Ok, Error> {
    log::forget_complaints();
    f().check().map_err(|status| Error {
        call: name,
        status,
        message: last_words(name),
    })
}

/// What our own functions left in `vp_last_error()`, and the errors (or else warnings) logged during the call.
fn last_words(name: &str) -> String {
    let logged = log::complaints();
    if !name.starts_with("vp_") {
        return logged;
    }
    // SAFETY: visipruner.h promises a NUL-terminated string that stays valid until this thread's next vp_ call.
    let said = one_line(&unsafe { text(sys::vp_last_error()) }.unwrap_or_default());
    match (said.is_empty(), logged.is_empty()) {
        (false, false) => format!("{said}: {logged}"),
        (false, true) => said,
        (true, _) => logged,
    }
}

/// Several lines as one.
pub(super) fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

/// A C string as UTF-8 text, with U+FFFD where it is none. `None` for NULL.
///
/// # Safety
/// `pointer` is NULL or points to a NUL-terminated string that outlives the call.
pub(super) unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not NULL, and NUL-terminated by this function's contract.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_apart() {
        assert_eq!(VpStatus(0).check(), Ok(()));
        assert_eq!(VpStatus(1).check(), Err(Status::NoSlot));
        assert_eq!(VpStatus(2).check(), Err(Status::Aborted));
        assert_eq!(VpStatus(-1).check(), Err(Status::BadArgument));
        assert_eq!(VpStatus(-2).check(), Err(Status::AllocFailed));
        assert_eq!(VpStatus(-3).check(), Err(Status::Failed));
        assert_eq!(VpStatus(-4).check(), Err(Status::Unsupported));
        assert_eq!(VpStatus(-5).check(), Err(Status::DeviceLost));
        assert_eq!(ZeroIsOk(1).check(), Err(Status::Failed));
    }

    #[test]
    fn several_lines_become_one() {
        assert_eq!(one_line("  a \n\n b\n"), "a; b");
    }
}
