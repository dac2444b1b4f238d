"""Fuzzing of the native transport by libFuzzer: `make fuzz-native`."""
