/* The program of the sandbox image, which holds a pod's namespaces: waits for a signal to end, reaps what is left to it.
   Without libc, so that the image is one file of a few kilobytes. */
enum { RT_SIGPROCMASK = 14, EXIT = 60, WAIT4 = 61, RT_SIGTIMEDWAIT = 128 };
enum { SIGINT = 2, SIGTERM = 15, SIGCHLD = 17 };

static long call(long number, long a, long b, long c, long d) {
  long result;
  register long r10 __asm__("r10") = d;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                   : "rcx", "r11", "memory");
  return result;
}

void _start(void) {
  unsigned long set = 1UL << (SIGINT - 1) | 1UL << (SIGTERM - 1) | 1UL << (SIGCHLD - 1);
  call(RT_SIGPROCMASK, 0, (long)&set, 0, sizeof set);
  for (;;) {
    long signal = call(RT_SIGTIMEDWAIT, (long)&set, 0, 0, sizeof set);
    if (signal == SIGINT || signal == SIGTERM) call(EXIT, 0, 0, 0, 0);
    if (signal == SIGCHLD)
      while (call(WAIT4, -1, 0, 1, 0) > 0) {
      }
  }
}
