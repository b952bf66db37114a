/* Attention in bf16 with the matrix unit of recent x86 processors (AMX). */
#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#include "tiles.h"
#include <sys/syscall.h>
#include <unistd.h>

int usable(void) {
  return !syscall(SYS_arch_prctl, 0x1023 /* request permission for a component of the state */, 18 /* tiles */);
}
static void prepare(void) {
  struct { uint8_t palette, start, reserved[14]; uint16_t columns[16]; uint8_t rows[16]; } c __attribute__((aligned(64))) = {1};
  for (int t = 0; t < 8; t++) { c.columns[t] = 64; c.rows[t] = 16; }
  _tile_loadconfig(&c);
}

static void release(void) { _tile_release(); }

static inline __attribute__((always_inline)) void multiply(const tile *left, long lover, long lnext, int rows, const tile *right, long rover,
                                                           long rnext, int columns, long n, int last, tile *c, int add) {
  const int tall = rows > 16, wide = columns > 1;
  (void)last;
  if (add) {
    _tile_loadd(0, c, 64);
    if (wide) _tile_loadd(1, c + 1, 64);
    if (tall) { _tile_loadd(2, c + 2, 64); if (wide) _tile_loadd(3, c + 3, 64); }
  } else { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }
  for (long k = 0; k < n; k++, left += lover, right += rover) {
    _tile_loadd(4, left, 64); _tile_loadd(6, right, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (wide) { _tile_loadd(7, right + rnext, 64); _tile_dpbf16ps(1, 4, 7); }
    if (tall) { _tile_loadd(5, left + lnext, 64); _tile_dpbf16ps(2, 5, 6); if (wide) _tile_dpbf16ps(3, 5, 7); }
  }
  _tile_stored(0, c, 64);
  if (wide) _tile_stored(1, c + 1, 64);
  if (tall) { _tile_stored(2, c + 2, 64); if (wide) _tile_stored(3, c + 3, 64); }
}
#include "bf16_attention.h"
#else
int usable(void) { return 0; }
#endif
