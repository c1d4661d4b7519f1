// One wheel for every x86-64 processor: a function marked AUTOARCH_CLONES is compiled once per instruction set below
// and the loader picks the best one that the processor has. Elsewhere (aarch64, clang on macOS, MSVC, musl) the mark
// is empty and the compiler's baseline is what runs.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__) && defined(__GLIBC__) && \
    !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
// x86-64-v3 is AVX2, -v4 AVX-512 with BW and VL. Sanitizers are not ready when the loader's resolvers run.
#define AUTOARCH_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define AUTOARCH_CLONES
#endif
