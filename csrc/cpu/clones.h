// One wheel for every x86-64 processor: a function marked AUTOARCH_CLONES is compiled once per instruction set below
// and the loader picks the best one that the processor has. Elsewhere (aarch64, clang on macOS, MSVC, musl) the mark
// is empty and the compiler's baseline is what runs.
//
// Measured (AMD EPYC of family 25 model 1, one thread, gcc 12, count_nonzero from memory, 15 runs, best): the AVX2
// clone takes 14.6 ms for 5e7 fp32, the baseline 16.5 ms; bf16 6.8 and 8.0 ms, fp64 (2.5e7) 14.2 and 16.8 ms.
#pragma once

// Whether functions can be compiled for one x86-64 target each (`#pragma GCC target`, loops_*.cpp).
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define AUTOARCH_X86_TARGETS 1
#else
#define AUTOARCH_X86_TARGETS 0
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__) && defined(__GLIBC__) && \
    !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
// x86-64-v3 is AVX2, -v4 AVX-512 with BW and VL. Sanitizers are not ready when the loader's resolvers run.
#define AUTOARCH_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define AUTOARCH_CLONES
#endif
