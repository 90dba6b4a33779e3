#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| latent_worker_fuzz::bounded(latent_worker::fuzzing::client, input));
