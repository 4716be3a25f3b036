//! What a call returns.

use std::ffi::CStr;

/// A return value of NVML other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

/// What a call returns.
pub type Answer<T> = Result<T, Code>;

macro_rules! codes {
    ($($name:ident = $number:literal, $word:literal, $text:literal;)*) => {
        impl Code {
            $(#[doc = concat!("`NVML_ERROR_", stringify!($name), "`.")] pub const $name: Self = Self($number);)*

            /// The code of a name such as `gpu-is-lost`, or of a number.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$name),)*
                    number => number.parse().ok().map(Self),
                }
            }

            /// What nvmlErrorString says of it.
            #[must_use]
            pub fn text(number: u32) -> &'static CStr {
                match number {
                    0 => c"Success",
                    $($number => $text,)*
                    _ => c"Unknown Error",
                }
            }
        }
    };
}

codes! {
    UNINITIALIZED = 1, "uninitialized", c"Uninitialized";
    INVALID_ARGUMENT = 2, "invalid-argument", c"Invalid Argument";
    NOT_SUPPORTED = 3, "not-supported", c"Not Supported";
    NO_PERMISSION = 4, "no-permission", c"Insufficient Permissions";
    ALREADY_INITIALIZED = 5, "already-initialized", c"Already Initialized";
    NOT_FOUND = 6, "not-found", c"Not Found";
    INSUFFICIENT_SIZE = 7, "insufficient-size", c"Insufficient Size";
    INSUFFICIENT_POWER = 8, "insufficient-power", c"Insufficient External Power";
    DRIVER_NOT_LOADED = 9, "driver-not-loaded", c"Driver Not Loaded";
    TIMEOUT = 10, "timeout", c"Timeout";
    IRQ_ISSUE = 11, "irq-issue", c"Interrupt Request Issue";
    LIBRARY_NOT_FOUND = 12, "library-not-found", c"NVML Shared Library Not Found";
    FUNCTION_NOT_FOUND = 13, "function-not-found", c"Function Not Found";
    CORRUPTED_INFOROM = 14, "corrupted-inforom", c"Corrupted infoROM";
    GPU_IS_LOST = 15, "gpu-is-lost", c"GPU is lost";
    RESET_REQUIRED = 16, "reset-required", c"GPU requires reset";
    OPERATING_SYSTEM = 17, "operating-system", c"The operating system has blocked the request";
    LIB_RM_VERSION_MISMATCH = 18, "lib-rm-version-mismatch", c"Driver/library version mismatch";
    IN_USE = 19, "in-use", c"In use by another client";
    MEMORY = 20, "memory", c"Insufficient Memory";
    NO_DATA = 21, "no-data", c"No data";
    VGPU_ECC_NOT_SUPPORTED = 22, "vgpu-ecc-not-supported", c"vGPU with ECC is not supported";
    INSUFFICIENT_RESOURCES = 23, "insufficient-resources", c"Insufficient Resources";
    FREQ_NOT_SUPPORTED = 24, "freq-not-supported", c"Frequency not supported";
    ARGUMENT_VERSION_MISMATCH = 25, "argument-version-mismatch", c"Argument version mismatch";
    DEPRECATED = 26, "deprecated", c"Deprecated";
    NOT_READY = 27, "not-ready", c"Not ready";
    GPU_NOT_FOUND = 28, "gpu-not-found", c"GPU not found";
    INVALID_STATE = 29, "invalid-state", c"Invalid state";
    RESET_TYPE_NOT_SUPPORTED = 30, "reset-type-not-supported", c"Reset type not supported";
    UNKNOWN = 999, "unknown", c"Unknown Error";
}
