// Whether functions can be compiled for one x86-64 instruction set each (`#pragma GCC target`, loops_*.cpp), whatever
// the rest is compiled for: one wheel for every x86-64 processor. Elsewhere (aarch64, clang, MSVC) the compiler's
// baseline is what runs.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define AUTOARCH_X86_TARGETS 1
#else
#define AUTOARCH_X86_TARGETS 0
#endif
