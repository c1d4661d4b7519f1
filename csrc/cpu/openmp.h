// The OpenMP runtime that the process has already, which is torch's, without linking against one.
//
// Its threads have worked for torch a moment ago and still look for work: they begin within microseconds, where a new
// thread takes 80 to 200, and waits for a core while they look. Found by name, through what gcc's compiled code calls
// (LLVM's and Intel's runtimes have the same entries). A process without it is served by plain threads, and so is a
// forked one: gcc's runtime would wait there for threads that stayed with the parent.
#pragma once

#include <type_traits>

#if defined(__linux__)
#include <dlfcn.h>
#include <unistd.h>
#endif

namespace autoarch {

struct OpenMp {
  void (*parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags) = nullptr;
  int (*thread)() = nullptr;   // inside of a body: this one's number
  int (*threads)() = nullptr;  // and how many there are, perhaps fewer than asked for
  int (*most)() = nullptr;     // how many there are where 0 are asked for
  int (*nested)() = nullptr;   // whether a body is running here already: another in it would get one thread alone

  bool complete() const { return parallel && thread && threads && most && nested; }
};

#if defined(__linux__)
inline const pid_t loaded_in = getpid();
inline bool was_forked() { return getpid() != loaded_in; }
#else
inline bool was_forked() { return false; }
#endif

inline OpenMp find_openmp() {
  OpenMp found;
#if defined(__linux__)
  const auto find = [](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(RTLD_DEFAULT, name));
  };
  find(found.parallel, "GOMP_parallel");
  find(found.thread, "omp_get_thread_num");
  find(found.threads, "omp_get_num_threads");
  find(found.most, "omp_get_max_threads");
  find(found.nested, "omp_in_parallel");
#endif
  return found;
}

// Null where there is none, or none that can be used here.
inline const OpenMp* openmp() {
  static const OpenMp found = find_openmp();
  return found.complete() && !was_forked() && !found.nested() ? &found : nullptr;
}

// f(0), ..., f(n - 1), none of which may throw; returns when all have. All threads of the runtime are asked for and some
// have nothing to do: with fewer it would end the others, and start them anew for torch.
template <typename F>
void run(const OpenMp& openmp, int n, F&& f) {
  struct Body {
    const OpenMp& openmp;
    int n;
    F& f;
    static void call(void* data) {
      const Body& body = *static_cast<Body*>(data);
      for (int t = body.openmp.thread(); t < body.n; t += body.openmp.threads()) body.f(t);
    }
  } body{openmp, n, f};
  openmp.parallel(&Body::call, &body, n <= openmp.most() ? 0 : static_cast<unsigned>(n), 0);
}

}  // namespace autoarch
