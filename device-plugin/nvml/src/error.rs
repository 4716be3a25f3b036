//! What NVML answers when it has no answer.

use std::fmt;

use thiserror::Error;

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The library is not there, or cannot be loaded.
    #[error("cannot load {path}: {message}")]
    Load {
        /// Where it was looked for.
        path: String,
        /// What the loader says.
        message: String,
    },
    /// NVML refused.
    #[error("{function}: {code}")]
    Call {
        /// Its function.
        function: &'static str,
        /// What it returned.
        code: Code,
    },
}

impl Error {
    /// What NVML returned; None when it could not even be loaded.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Load { .. } => None,
            Self::Call { code, .. } => Some(*code),
        }
    }
}

/// A return code of NVML.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u32);

macro_rules! codes {
    ($($(#[$documentation:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        impl Code {
            $($(#[$documentation])* pub const $name: Self = Self($number);)*

            const fn text(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    Self(_) => None,
                }
            }
        }
    };
}

codes! {
    /// No call of `nvmlInit` is in force.
    UNINITIALIZED = 1, "not initialised";
    /// An argument, such as a handle, is not valid.
    INVALID_ARGUMENT = 2, "invalid argument";
    /// This device cannot do it.
    NOT_SUPPORTED = 3, "not supported by this device";
    /// This user may not.
    NO_PERMISSION = 4, "no permission";
    /// There is no such thing.
    NOT_FOUND = 6, "not found";
    /// The buffer was too small.
    INSUFFICIENT_SIZE = 7, "more room is needed";
    /// The kernel's part of the driver is not loaded.
    DRIVER_NOT_LOADED = 9, "the driver is not loaded";
    /// Nothing happened in the given time.
    TIMEOUT = 10, "nothing came in time";
    /// The library lacks the function, or the driver below it does.
    FUNCTION_NOT_FOUND = 13, "this driver does not have the function";
    /// The GPU has fallen off the bus.
    GPU_IS_LOST = 15, "the GPU is lost";
    /// The GPU does nothing before a reset.
    RESET_REQUIRED = 16, "the GPU needs a reset";
    /// The library is of another version than the kernel's part.
    LIB_RM_VERSION_MISMATCH = 18, "library and kernel module are of different versions";
    /// No data yet.
    NO_DATA = 21, "no data";
    /// The struct's version is not known there.
    ARGUMENT_VERSION_MISMATCH = 25, "the driver does not know this version of the struct";
    /// No GPU was found.
    GPU_NOT_FOUND = 28, "no GPU was found";
    /// Anything else.
    UNKNOWN = 999, "internal error of the driver";
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => write!(out, "{text} ({})", self.0),
            None => write!(out, "code {}", self.0),
        }
    }
}
