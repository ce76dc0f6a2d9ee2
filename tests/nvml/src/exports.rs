//! The NVML functions that the agent calls, as declared in `nvml.h`.
//!
//! NVML contract: pointers are null or point to the declared type, and a buffer has the length passed with it. A null
//! pointer for a required value returns `NVML_ERROR_INVALID_ARGUMENT`. Panics do not cross the C boundary.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    time::Duration,
};

use nvml_wrapper_sys::bindings as nvml;
use nvml_wrapper_sys::bindings::field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION;
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlFieldValue_t, nvmlMemory_v2_t, nvmlProcessInfo_t,
    nvmlReturn_t, nvmlUtilization_t, nvmlValue_t,
};

use crate::{
    Failure,
    scenario::Gpu,
    session::{self, Handle, INVALID_ARGUMENT, NOT_SUPPORTED, SetId},
};

const INSUFFICIENT_SIZE: Failure = Failure(nvml::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
/// GPU and compute instance ids where a GPU is not partitioned (`nvml.h`: 0xFFFFFFFF).
const NOT_PARTITIONED: c_uint = c_uint::MAX;
/// `NVML_VALUE_NOT_AVAILABLE` as the unsigned 64-bit memory of a process.
const NOT_AVAILABLE: c_ulonglong = c_ulonglong::MAX;
/// `NVML_STRUCT_VERSION(Memory, 2)`.
const MEMORY_V2: c_uint = (size_of::<nvmlMemory_v2_t>() | (2 << 24)) as c_uint;

/// Runs the body of an exported function and converts its result.
fn run(body: impl FnOnce() -> Result<(), Failure>) -> nvmlReturn_t {
    // Unwind safe: all state is plain data behind the lock of the session.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => nvml::nvmlReturn_enum_NVML_SUCCESS,
        Ok(Err(Failure(code))) => code,
        Err(_) => nvml::nvmlReturn_enum_NVML_ERROR_UNKNOWN,
    }
}

/// Returns one value of a GPU.
///
/// # Safety
/// `out` is null or may be written to.
unsafe fn run_with_value<T>(
    device: nvmlDevice_t,
    out: *mut T,
    value: impl FnOnce(&Gpu) -> Option<T>,
) -> nvmlReturn_t {
    run(|| {
        let value =
            session::with_session(|session| value(session.gpu(handle(device))?).ok_or(NOT_SUPPORTED))?;
        // SAFETY: guaranteed by the caller.
        unsafe { put(out, value) }
    })
}

/// # Safety
/// `out` is null or may be written to.
unsafe fn put<T>(out: *mut T, value: T) -> Result<(), Failure> {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, so the caller guarantees that it is writable.
    unsafe { out.write(value) };
    Ok(())
}

/// # Safety
/// `out` is null or `length` bytes may be written to it.
unsafe fn put_string(out: *mut c_char, length: c_uint, text: &str) -> Result<(), Failure> {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the text and its NUL fit into the buffer of the caller.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr().cast(), out, text.len());
        out.add(text.len()).write(0);
    }
    Ok(())
}

fn handle(device: nvmlDevice_t) -> Handle {
    Handle(device.addr())
}

fn device(handle: Handle) -> nvmlDevice_t {
    ptr::without_provenance_mut(handle.0)
}

fn set_id(set: nvmlEventSet_t) -> SetId {
    SetId(set.addr())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    run(session::init)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    run(session::shutdown)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    run(|| {
        let gpus = session::with_session(|session| Ok(session.count()))?;
        // SAFETY: NVML contract (see the module).
        unsafe { put(count, gpus as c_uint) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, out: *mut nvmlDevice_t) -> nvmlReturn_t {
    run(|| {
        let handle = session::with_session(|session| session.handle_at(index as usize))?;
        // SAFETY: NVML contract (see the module).
        unsafe { put(out, device(handle)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, out: *mut nvmlDevice_t) -> nvmlReturn_t {
    run(|| {
        if uuid.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not null, so by the NVML contract it is a C string.
        let uuid = unsafe { CStr::from_ptr(uuid) }.to_str().map_err(|_| INVALID_ARGUMENT)?;
        let handle = session::with_session(|session| session.handle_of(uuid))?;
        // SAFETY: NVML contract (see the module).
        unsafe { put(out, device(handle)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    out: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    run(|| {
        let uuid = session::with_session(|session| Ok(session.gpu(handle(device))?.uuid.clone()))?;
        // SAFETY: NVML contract (see the module).
        unsafe { put_string(out, length, &uuid) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetName(
    device: nvmlDevice_t,
    out: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    run(|| {
        let name = session::with_session(|session| Ok(session.gpu(handle(device))?.name.clone()))?;
        // SAFETY: NVML contract (see the module).
        unsafe { put_string(out, length, &name) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    out: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    // SAFETY: NVML contract (see the module).
    unsafe {
        run_with_value(device, out, |gpu| {
            gpu.utilization_percent.map(|percent| nvmlUtilization_t { gpu: percent, memory: 0 })
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    info: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    // SAFETY: NVML contract (see the module); the caller sets the version.
    if !info.is_null() && unsafe { (*info).version } != MEMORY_V2 {
        return nvml::nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    }
    // SAFETY: NVML contract (see the module).
    unsafe {
        run_with_value(device, info, |gpu| {
            let (used, total) = (gpu.memory_used_bytes?, gpu.memory_total_bytes?);
            Some(nvmlMemory_v2_t { version: MEMORY_V2, total, reserved: 0, free: total - used, used })
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    sensor: c_uint,
    out: *mut c_uint,
) -> nvmlReturn_t {
    if sensor != nvml::nvmlTemperatureSensors_enum_NVML_TEMPERATURE_GPU {
        return run(|| session::with_session(|_| Err(INVALID_ARGUMENT)));
    }
    // SAFETY: NVML contract (see the module).
    unsafe { run_with_value(device, out, |gpu| gpu.temperature_celsius) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, out: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: NVML contract (see the module).
    unsafe { run_with_value(device, out, |gpu| gpu.power_mw) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, out: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: NVML contract (see the module).
    unsafe { run_with_value(device, out, |gpu| gpu.power_limit_mw) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetClockInfo(
    device: nvmlDevice_t,
    clock: c_uint,
    out: *mut c_uint,
) -> nvmlReturn_t {
    // SAFETY: NVML contract (see the module).
    unsafe { run_with_value(device, out, |gpu| gpu.sm_clock_mhz.filter(|_| is_sm(clock))) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(
    device: nvmlDevice_t,
    clock: c_uint,
    out: *mut c_uint,
) -> nvmlReturn_t {
    // SAFETY: NVML contract (see the module).
    unsafe { run_with_value(device, out, |gpu| gpu.sm_clock_max_mhz.filter(|_| is_sm(clock))) }
}

/// Scenarios contain only the SM clock.
fn is_sm(clock: c_uint) -> bool {
    clock == nvml::nvmlClockType_enum_NVML_CLOCK_SM
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    device: nvmlDevice_t,
    out: *mut c_ulonglong,
) -> nvmlReturn_t {
    // SAFETY: NVML contract (see the module).
    unsafe { run_with_value(device, out, |gpu| gpu.throttle_reason_bits) }
}

/// Scenarios contain only the recovery action. Every field has its own error.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvmlFieldValue_t,
) -> nvmlReturn_t {
    run(|| {
        let action = session::with_session(|session| Ok(session.gpu(handle(device))?.recovery_action))?;
        let count = usize::try_from(count).map_err(|_| INVALID_ARGUMENT)?;
        if values.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        for place in 0..count {
            // SAFETY: by the NVML contract `values` has `count` elements.
            let value = unsafe { &mut *values.add(place) };
            let known = action.filter(|_| value.fieldId == NVML_FI_DEV_GET_GPU_RECOVERY_ACTION);
            value.nvmlReturn = known.map_or(NOT_SUPPORTED.0, |_| nvml::nvmlReturn_enum_NVML_SUCCESS);
            value.valueType = nvml::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
            value.value = nvmlValue_t { uiVal: known.unwrap_or_default() };
        }
        Ok(())
    })
}

/// Sets the required length and returns `NVML_ERROR_INSUFFICIENT_SIZE` if `infos` is null or too short.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    run(|| {
        let pids = session::with_session(|session| {
            session.gpu(handle(device))?.processes.clone().ok_or(NOT_SUPPORTED)
        })?;
        if count.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not null, so by the NVML contract it holds the length of `infos`.
        let room = unsafe { count.replace(pids.len() as c_uint) } as usize;
        if room < pids.len() {
            return Err(INSUFFICIENT_SIZE);
        }
        if infos.is_null() && room > 0 {
            return Err(INVALID_ARGUMENT);
        }
        for (place, pid) in pids.into_iter().enumerate() {
            let info = nvmlProcessInfo_t {
                pid,
                usedGpuMemory: NOT_AVAILABLE,
                gpuInstanceId: NOT_PARTITIONED,
                computeInstanceId: NOT_PARTITIONED,
            };
            // SAFETY: the length of `infos` was checked.
            unsafe { infos.add(place).write(info) };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(
    device: nvmlDevice_t,
    out: *mut c_ulonglong,
) -> nvmlReturn_t {
    // SAFETY: NVML contract (see the module).
    unsafe {
        run_with_value(device, out, |gpu| {
            gpu.xids.as_ref().map(|_| c_ulonglong::from(nvml::nvmlEventTypeXidCriticalError))
        })
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    events: c_ulonglong,
    set: nvmlEventSet_t,
) -> nvmlReturn_t {
    run(|| session::with_session(|session| session.register(handle(device), events, set_id(set))))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetCreate(out: *mut nvmlEventSet_t) -> nvmlReturn_t {
    run(|| {
        if out.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        let id = session::with_session(|session| session.create_set())?;
        // SAFETY: NVML contract (see the module).
        unsafe { put(out, ptr::without_provenance_mut(id.0)) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    run(|| session::with_session(|session| session.free_set(set_id(set))))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    out: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    run(|| {
        if out.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        let event = session::wait(set_id(set), Duration::from_millis(timeout_ms.into()))?;
        let data = nvmlEventData_t {
            device: device(event.device),
            eventType: nvml::nvmlEventTypeXidCriticalError.into(),
            eventData: event.xid,
            gpuInstanceId: NOT_PARTITIONED,
            computeInstanceId: NOT_PARTITIONED,
        };
        // SAFETY: NVML contract (see the module).
        unsafe { put(out, data) }
    })
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use super::*;

    const SUCCESS: nvmlReturn_t = nvml::nvmlReturn_enum_NVML_SUCCESS;

    /// A single test, because a process has only one session.
    #[test]
    fn checks_arguments_and_sizes_like_nvml() {
        let mut device = ptr::null_mut();
        let mut count = 0;
        let mut name = [1; 8];
        // SAFETY: every pointer below is null or to a local of the declared type.
        unsafe {
            assert_eq!(nvmlDeviceGetCount_v2(&raw mut count), session::UNINITIALIZED.0);
            assert_eq!(nvmlShutdown(), session::UNINITIALIZED.0);

            let _folder = session::tests::init_with(
                r#"[{"uuid": "GPU-1", "name": "H100", "processes": [7, 8], "xids": []},
                    {"uuid": "GPU-2", "name": "H100", "processes": []}]"#,
            );
            assert_eq!(nvmlInit_v2(), SUCCESS);
            assert_eq!(nvmlDeviceGetCount_v2(&raw mut count), SUCCESS);
            assert_eq!(count, 2);
            assert_eq!(nvmlDeviceGetCount_v2(ptr::null_mut()), INVALID_ARGUMENT.0);
            assert_eq!(nvmlDeviceGetHandleByUUID(ptr::null(), &raw mut device), INVALID_ARGUMENT.0);
            assert_eq!(nvmlDeviceGetHandleByUUID(c"GPU-1".as_ptr(), &raw mut device), SUCCESS);

            assert_eq!(nvmlDeviceGetName(device, name.as_mut_ptr(), 4), INSUFFICIENT_SIZE.0);
            assert_eq!(nvmlDeviceGetName(device, name.as_mut_ptr(), 5), SUCCESS);
            assert_eq!(CStr::from_ptr(name.as_ptr()).to_bytes(), b"H100");
            assert_eq!(name[5], 1, "bytes after the NUL are unchanged");
            assert_eq!(nvmlDeviceGetPowerUsage(device, &raw mut count), NOT_SUPPORTED.0);
            assert_eq!(nvmlDeviceGetPowerUsage(ptr::null_mut(), &raw mut count), INVALID_ARGUMENT.0);
            assert_eq!(nvmlDeviceGetTemperature(device, 1, &raw mut count), INVALID_ARGUMENT.0);
            let mut memory = MaybeUninit::<nvmlMemory_v2_t>::zeroed().assume_init();
            assert_eq!(
                nvmlDeviceGetMemoryInfo_v2(device, &raw mut memory),
                nvml::nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH
            );

            let list = nvmlDeviceGetComputeRunningProcesses_v3;
            let mut infos = MaybeUninit::<[nvmlProcessInfo_t; 3]>::zeroed().assume_init();
            for room in [0, 1] {
                count = room;
                assert_eq!(list(device, &raw mut count, infos.as_mut_ptr()), INSUFFICIENT_SIZE.0);
                assert_eq!((count, infos[0].pid), (2, 0), "the length is set, the list is unchanged");
            }
            count = 3;
            assert_eq!(list(device, &raw mut count, ptr::null_mut()), INVALID_ARGUMENT.0);
            count = 3;
            assert_eq!(list(device, &raw mut count, infos.as_mut_ptr()), SUCCESS);
            assert_eq!((count, infos.map(|info| info.pid)), (2, [7, 8, 0]));
            let mut second = ptr::null_mut();
            assert_eq!(nvmlDeviceGetHandleByIndex_v2(1, &raw mut second), SUCCESS);
            assert_eq!(list(second, &raw mut count, ptr::null_mut()), INVALID_ARGUMENT.0);
            count = 0;
            assert_eq!(list(second, &raw mut count, ptr::null_mut()), SUCCESS);
            assert_eq!(nvmlDeviceGetHandleByIndex_v2(2, &raw mut second), INVALID_ARGUMENT.0);

            let mut set = ptr::null_mut();
            assert_eq!(nvmlEventSetCreate(&raw mut set), SUCCESS);
            assert_eq!(nvmlDeviceRegisterEvents(device, 8, ptr::null_mut()), INVALID_ARGUMENT.0);
            assert_eq!(nvmlDeviceRegisterEvents(device, 8, set), SUCCESS);
            let mut event = MaybeUninit::<nvmlEventData_t>::zeroed().assume_init();
            assert_eq!(nvmlEventSetWait_v2(set, &raw mut event, 1), nvml::nvmlReturn_enum_NVML_ERROR_TIMEOUT);
            assert_eq!(nvmlEventSetFree(set), SUCCESS);
            assert_eq!(nvmlEventSetWait_v2(set, &raw mut event, 1), INVALID_ARGUMENT.0);

            assert_eq!(nvmlShutdown(), SUCCESS, "init was called twice");
            assert_eq!(nvmlDeviceGetName(device, name.as_mut_ptr(), 5), SUCCESS);
            assert_eq!(nvmlShutdown(), SUCCESS);
            assert_eq!(nvmlDeviceGetName(device, name.as_mut_ptr(), 5), session::UNINITIALIZED.0);
        }
        assert_eq!(run(|| panic!("inside")), nvml::nvmlReturn_enum_NVML_ERROR_UNKNOWN);
    }
}
