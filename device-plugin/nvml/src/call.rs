//! How the functions of NVML are called.
//!
//! Most of them take a handle and places to write to. The type of the symbol says how many and of which kind, so a few
//! helpers, one per shape, carry the unsafe code for nearly all of them.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings as sys;
use sys::{nvmlDevice_t, nvmlReturn_t};

use crate::{Code, Error};

/// A function as the bindings look it up; how the loader failed is of no interest.
pub(crate) type Symbol<F, E> = Result<F, E>;

/// A function that writes one value about a device.
pub(crate) type One<T> = unsafe extern "C" fn(nvmlDevice_t, *mut T) -> nvmlReturn_t;
/// A function that writes two.
pub(crate) type Two<T> = unsafe extern "C" fn(nvmlDevice_t, *mut T, *mut T) -> nvmlReturn_t;
/// A function that writes one value about a part of a device, by the part's number.
pub(crate) type Part<T> = unsafe extern "C" fn(nvmlDevice_t, c_uint, *mut T) -> nvmlReturn_t;

/// Plain data of C: a pattern of zeroes is a value of it, as is whatever a C function writes.
///
/// # Safety
/// It holds numbers and pointers alone (which nobody here follows), no references, no enums.
pub(crate) unsafe trait Plain: Copy {
    fn zeroed() -> Self {
        // SAFETY: the promise of the trait.
        unsafe { std::mem::zeroed() }
    }
}

// SAFETY: a number.
unsafe impl Plain for c_int {}
// SAFETY: a number.
unsafe impl Plain for c_uint {}
// SAFETY: a number.
unsafe impl Plain for c_ulonglong {}
// SAFETY: a pointer that only NVML follows.
unsafe impl Plain for nvmlDevice_t {}
// SAFETY: structs of numbers and characters.
unsafe impl Plain for sys::nvmlPciInfo_t {}
// SAFETY: as above.
unsafe impl Plain for sys::nvmlGridLicensableFeatures_t {}
// SAFETY: as above.
unsafe impl Plain for sys::nvmlMemory_t {}
// SAFETY: as above.
unsafe impl Plain for sys::nvmlMemory_v2_t {}
// SAFETY: as above.
unsafe impl Plain for sys::nvmlUtilization_t {}
// SAFETY: as above.
unsafe impl Plain for sys::nvmlDeviceAttributes_t {}
// SAFETY: as above.
unsafe impl Plain for sys::nvmlMarginTemperature_t {}
// SAFETY: as above.
unsafe impl Plain for sys::nvmlEccSramErrorStatus_t {}
// SAFETY: as above.
unsafe impl Plain for sys::nvmlGpmSupport_t {}
// SAFETY: as above.
unsafe impl Plain for sys::nvmlProcessInfo_t {}
// SAFETY: numbers, and a union of numbers.
unsafe impl Plain for sys::nvmlFieldValue_t {}
// SAFETY: numbers, and a handle that only NVML follows.
unsafe impl Plain for sys::nvmlEventData_t {}
// SAFETY: numbers, and pointers that nobody follows.
unsafe impl Plain for sys::nvmlGpmMetricsGet_t {}

/// The function, where the library has it.
pub(crate) fn symbol<F: Copy, E>(function: &'static str, symbol: &Symbol<F, E>) -> Result<F, Error> {
    symbol.as_ref().copied().map_err(|_| Error::Call { function, code: Code::FUNCTION_NOT_FOUND })
}

/// What a call returned.
pub(crate) fn check(function: &'static str, returned: nvmlReturn_t) -> Result<(), Error> {
    if returned == 0 { Ok(()) } else { Err(Error::Call { function, code: Code(returned) }) }
}

/// The version field of a struct: its size, and above it its version.
pub(crate) fn version<T>(version: c_uint) -> c_uint {
    // Structs of NVML are far below 16 MiB, which the upper byte leaves.
    c_uint::try_from(size_of::<T>()).unwrap_or(0) | version << 24
}

/// Asks for one value.
pub(crate) fn one<T: Plain, E>(
    function: &'static str,
    found: &Symbol<One<T>, E>,
    handle: nvmlDevice_t,
) -> Result<T, Error> {
    one_into(function, found, handle, T::zeroed())
}

/// Asks for a struct of which the caller has to fill in something first.
pub(crate) fn one_into<T: Plain, E>(
    function: &'static str,
    found: &Symbol<One<T>, E>,
    handle: nvmlDevice_t,
    mut value: T,
) -> Result<T, Error> {
    let call = symbol(function, found)?;
    // SAFETY: the handle is live (its owner keeps the library), and the pointer is to one T, the type that the
    // header declares for this function.
    check(function, unsafe { call(handle, &raw mut value) })?;
    Ok(value)
}

/// Asks for two values.
pub(crate) fn two<T: Plain, E>(
    function: &'static str,
    found: &Symbol<Two<T>, E>,
    handle: nvmlDevice_t,
) -> Result<(T, T), Error> {
    let call = symbol(function, found)?;
    let (mut first, mut second) = (T::zeroed(), T::zeroed());
    // SAFETY: as in `one_into`, with two places.
    check(function, unsafe { call(handle, &raw mut first, &raw mut second) })?;
    Ok((first, second))
}

/// Asks for one value of a part: a link, a kind of clock, a limit.
pub(crate) fn part<T: Plain, E>(
    function: &'static str,
    found: &Symbol<Part<T>, E>,
    handle: nvmlDevice_t,
    number: c_uint,
) -> Result<T, Error> {
    let call = symbol(function, found)?;
    let mut value = T::zeroed();
    // SAFETY: as in `one_into`; a number that does not exist is refused by NVML.
    check(function, unsafe { call(handle, number, &raw mut value) })?;
    Ok(value)
}

/// Asks for a text of at most LENGTH bytes.
pub(crate) fn text<const LENGTH: usize>(
    function: &'static str,
    call: impl FnOnce(*mut c_char, c_uint) -> nvmlReturn_t,
) -> Result<String, Error> {
    let mut buffer = [0; LENGTH];
    check(function, call(buffer.as_mut_ptr(), c_uint::try_from(LENGTH).unwrap_or(0)))?;
    Ok(string(&buffer))
}

/// The text up to the first zero; what is not UTF-8 is replaced.
pub(crate) fn string(buffer: &[c_char]) -> String {
    let bytes: Vec<u8> = buffer.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
