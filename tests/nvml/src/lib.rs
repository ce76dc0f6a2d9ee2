//! A stand-in for NVML.
