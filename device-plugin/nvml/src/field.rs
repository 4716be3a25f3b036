//! Field values: many of them in one call.

use std::ffi::c_int;

use nvml_wrapper_sys::bindings as sys;
use sys::nvmlFieldValue_t;

use crate::call::{Plain, check, symbol};
use crate::{Code, Device, Error};

/// The fields that are asked for; numbers that no driver has given another meaning (those of 251 to 273 changed with
/// 580.82 and are not among them).
pub mod fields {
    pub use nvml_wrapper_sys::bindings::field_id::{
        NVML_FI_DEV_ECC_DBE_VOL_TOTAL as ECC_UNCORRECTED, NVML_FI_DEV_ECC_SBE_VOL_TOTAL as ECC_CORRECTED,
        NVML_FI_DEV_GET_GPU_RECOVERY_ACTION as RECOVERY_ACTION, NVML_FI_DEV_MEMORY_TEMP as MEMORY_TEMPERATURE,
        NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS as LINK_RECOVERY_EVENTS,
        NVML_FI_DEV_NVLINK_COUNT_RCV_BYTES as LINK_RECEIVED_BYTES,
        NVML_FI_DEV_NVLINK_COUNT_RCV_ERRORS as LINK_RECEIVE_ERRORS,
        NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES as LINK_SENT_BYTES, NVML_FI_DEV_NVLINK_ERROR_DL_CRC as LINK_CRC_ERRORS,
        NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY as LINK_RECOVERIES, NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY as LINK_REPLAYS,
        NVML_FI_DEV_NVLINK_GET_STATE as LINK_STATE, NVML_FI_DEV_NVLINK_LINK_COUNT as LINK_COUNT,
        NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX as LINK_RECEIVED_KIB,
        NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX as LINK_SENT_KIB, NVML_FI_DEV_PCIE_REPLAY_COUNTER as PCIE_REPLAYS,
        NVML_FI_DEV_REMAPPED_COR as REMAPPED_CORRECTED, NVML_FI_DEV_REMAPPED_FAILURE as REMAPPED_FAILURE,
        NVML_FI_DEV_REMAPPED_PENDING as REMAPPED_PENDING, NVML_FI_DEV_REMAPPED_UNC as REMAPPED_UNCORRECTED,
        NVML_FI_DEV_RETIRED_PENDING as RETIRED_PENDING, NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT as SHUTDOWN_MARGIN,
        NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT as SLOWDOWN_MARGIN, NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION as ENERGY,
    };

    /// The scope that means all links together.
    pub const ALL_LINKS: u32 = u32::MAX;
}

/// A field, and of which part of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Field {
    /// Which, of [`fields`].
    pub id: u32,
    /// The link that it is about; 0 where it is about the device.
    pub scope: u32,
}

impl Field {
    /// A field of the device.
    #[must_use]
    pub const fn of_device(id: u32) -> Self {
        Self { id, scope: 0 }
    }
}

/// Value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Not negative.
    Unsigned(u64),
    /// Possibly negative.
    Signed(i64),
    /// Fractional.
    Float(f64),
}

impl Value {
    /// As a count.
    #[must_use]
    pub fn unsigned(self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(value),
            Self::Signed(value) => u64::try_from(value).ok(),
            Self::Float(_) => None,
        }
    }

    /// As a number that may be negative.
    #[must_use]
    pub fn signed(self) -> Option<i64> {
        match self {
            Self::Unsigned(value) => i64::try_from(value).ok(),
            Self::Signed(value) => Some(value),
            Self::Float(_) => None,
        }
    }
}

impl Device {
    /// The values of these fields, in their order, by one call. Each field can fail alone.
    pub fn fields(&self, wanted: &[Field]) -> Result<Vec<Result<Value, Code>>, Error> {
        const NAME: &str = "nvmlDeviceGetFieldValues";
        let function = symbol(NAME, &self.symbols().nvmlDeviceGetFieldValues)?;
        let mut values: Vec<nvmlFieldValue_t> = wanted
            .iter()
            .map(|field| nvmlFieldValue_t { fieldId: field.id, scopeId: field.scope, ..Plain::zeroed() })
            .collect();
        let count =
            c_int::try_from(values.len()).map_err(|_| Error::Call { function: NAME, code: Code::INVALID_ARGUMENT })?;
        // SAFETY: the handle is live, and the pointer is to `count` structs, which the function fills in.
        check(NAME, unsafe { function(self.handle(), count, values.as_mut_ptr()) })?;
        Ok(values.iter().map(value).collect())
    }
}

fn value(field: &nvmlFieldValue_t) -> Result<Value, Code> {
    if field.nvmlReturn != 0 {
        return Err(Code(field.nvmlReturn));
    }
    let value = field.value;
    // SAFETY: all members of the union are numbers, the union began as zeroes, and the type that NVML wrote beside it
    // says which member it filled in; any bits are a value of any of them.
    let value = unsafe {
        match field.valueType {
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_DOUBLE => Value::Float(value.dVal),
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT => Value::Unsigned(value.uiVal.into()),
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG => Value::Unsigned(value.ulVal),
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG => Value::Unsigned(value.ullVal),
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_LONG_LONG => Value::Signed(value.sllVal),
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_INT => Value::Signed(value.siVal.into()),
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_SHORT => Value::Unsigned(value.usVal.into()),
            _ => return Err(Code::NOT_SUPPORTED),
        }
    };
    Ok(value)
}
