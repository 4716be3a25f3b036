//! Pointers that come from C, and handles, which are numbers that look like pointers to nothing.

use std::ffi::{CStr, c_char};

use crate::code::{Answer, Code};

/// A pointer from C: null, or valid for reading and writing what it points to during the call.
pub(crate) struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

/// What can be an argument of a C function.
pub(crate) trait Param {
    /// As the body of a function sees it.
    type Seen: Seen;
    /// # Safety
    /// A pointer must be null or point to what its type says, or be a handle.
    unsafe fn take(self) -> Self::Seen;
}

/// An argument that was taken.
pub(crate) trait Seen {
    /// Where it points; None: it is no pointer.
    fn address(&self) -> Option<usize> {
        None
    }
}

impl<T> Seen for Out<T> {
    fn address(&self) -> Option<usize> {
        Some(self.0.addr())
    }
}

impl<T> Param for *mut T {
    type Seen = Out<T>;
    unsafe fn take(self) -> Out<T> {
        Out(self)
    }
}

impl<T> Param for *const T {
    type Seen = Out<T>;
    unsafe fn take(self) -> Out<T> {
        Out(self.cast_mut())
    }
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Seen for $type {}
        impl Param for $type {
            type Seen = $type;
            unsafe fn take(self) -> $type {
                self
            }
        }
    )*};
}
plain!(u32, i32, u64);

/// The handle that an argument is, if it is one.
pub(crate) fn handle(seen: &impl Seen) -> Option<Handle> {
    seen.address().and_then(Handle::read)
}

impl<T: Copy> Out<T> {
    fn checked(self) -> Answer<*mut T> {
        if self.0.is_null() || Handle::read(self.0.addr()).is_some() { Err(Code::INVALID_ARGUMENT) } else { Ok(self.0) }
    }

    /// Writes.
    pub fn put(self, value: T) -> Answer<()> {
        let pointer = self.checked()?;
        // SAFETY: valid for writing, as `Out` says; C code may pass it unaligned.
        unsafe { pointer.write_unaligned(value) };
        Ok(())
    }

    /// Reads.
    pub fn get(self) -> Answer<T> {
        let pointer = self.checked()?;
        // SAFETY: valid for reading, as `Out` says.
        Ok(unsafe { pointer.read_unaligned() })
    }

    /// Changes a part.
    pub fn edit(self, change: impl FnOnce(&mut T)) -> Answer<()> {
        let mut value = self.get()?;
        change(&mut value);
        self.put(value)
    }

    /// The element after `count` others; for arrays whose size the caller said.
    pub fn at(self, count: usize) -> Answer<Self> {
        Ok(Self(self.checked()?.wrapping_add(count)))
    }

    /// As a pointer to the beginning of it.
    pub fn beginning<U: Copy>(self) -> Out<U> {
        debug_assert!(size_of::<U>() <= size_of::<T>());
        Out(self.0.cast())
    }

    /// What follows in a struct, of which this is a part.
    pub fn cast_after<U: Copy>(self) -> Out<U> {
        Out(self.0.cast())
    }

    /// Checks the version that the caller wrote at the beginning of a struct: its size, and the number of its version.
    pub fn version(self, number: u32) -> Answer<()> {
        let expected = u32::try_from(size_of::<T>()).unwrap_or(0) | number << 24;
        if self.beginning::<u32>().get()? == expected { Ok(()) } else { Err(Code::ARGUMENT_VERSION_MISMATCH) }
    }

    /// The caller passed nothing.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Writes a list into room for `count` items. With too little room nothing is written but the count that is needed.
    pub fn list(self, count: Out<u32>, items: &[T]) -> Answer<()> {
        let room = count.get()? as usize;
        count.put(u32::try_from(items.len()).unwrap_or(u32::MAX))?;
        if items.len() > room {
            return Err(Code::INSUFFICIENT_SIZE);
        }
        for (place, item) in items.iter().enumerate() {
            self.at(place)?.put(*item)?;
        }
        Ok(())
    }
}

impl Out<c_char> {
    /// Writes text with a zero byte into room for `length` bytes.
    pub fn text(self, length: u32, text: &str) -> Answer<()> {
        if text.len() >= length as usize {
            self.checked()?;
            return Err(Code::INSUFFICIENT_SIZE);
        }
        for (place, byte) in text.bytes().chain([0]).enumerate() {
            self.at(place)?.put(byte.cast_signed())?;
        }
        Ok(())
    }

    /// Reads text.
    pub fn string(self) -> Answer<String> {
        let pointer = self.checked()?;
        // SAFETY: C passes text with a zero byte at its end.
        let text = unsafe { CStr::from_ptr(pointer) };
        text.to_str().map(str::to_owned).map_err(|_| Code::INVALID_ARGUMENT)
    }
}

/// Text in an array of fixed size, cut where it is too long.
pub(crate) fn array<const N: usize>(text: &str) -> [c_char; N] {
    let mut chars = [0; N];
    for (place, byte) in chars.iter_mut().take(N.saturating_sub(1)).zip(text.bytes()) {
        *place = byte.cast_signed();
    }
    chars
}

/// What a handle is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gpu = 1,
    /// What programs see as a device of a divided GPU.
    Instance = 2,
    GpuInstance = 3,
    ComputeInstance = 4,
    EventSet = 5,
    Sample = 6,
}

impl Kind {
    pub fn is_of_gpu(self) -> bool {
        matches!(self, Self::Gpu | Self::Instance | Self::GpuInstance | Self::ComputeInstance)
    }
}

/// A handle: a number with a mark that no address of a program has, so a wrong one is noticed and never followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub kind: Kind,
    pub node: u16,
    /// Of a GPU: its slot in the upper 8 bits, the serial number of the instance below.
    pub payload: u32,
}

const MARK: usize = 0xa70;

impl Handle {
    fn read(address: usize) -> Option<Self> {
        if address >> 52 != MARK {
            return None;
        }
        let kind = match address >> 48 & 0xf {
            1 => Kind::Gpu,
            2 => Kind::Instance,
            3 => Kind::GpuInstance,
            4 => Kind::ComputeInstance,
            5 => Kind::EventSet,
            6 => Kind::Sample,
            _ => return None,
        };
        let node = u16::try_from(address >> 32 & 0xffff).ok()?;
        Some(Self { kind, node, payload: u32::try_from(address & 0xffff_ffff).ok()? })
    }

    /// As C sees it.
    pub fn pointer<T>(self) -> *mut T {
        let number = MARK << 52 | (self.kind as usize) << 48 | usize::from(self.node) << 32 | self.payload as usize;
        std::ptr::without_provenance_mut(number)
    }

    pub fn slot(self) -> u32 {
        self.payload >> 24
    }

    pub fn serial(self) -> u32 {
        self.payload & 0xff_ffff
    }

    /// Of what the caller says it is.
    pub fn of<T>(seen: Out<T>, kind: Kind) -> Answer<Self> {
        Self::read(seen.0.addr()).filter(|handle| handle.kind == kind).ok_or(Code::INVALID_ARGUMENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_survive_the_way_through_c_and_pointers_are_none() {
        let handle = Handle { kind: Kind::Instance, node: 999, payload: 15 << 24 | 7 };
        assert_eq!(Handle::read(handle.pointer::<u8>().addr()), Some(handle));
        assert_eq!((handle.slot(), handle.serial()), (15, 7));
        assert_eq!(Handle::read((&raw const handle).addr()), None);
        assert_eq!(Handle::read(0), None);
    }
}
