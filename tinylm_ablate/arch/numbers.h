/* Numbers of the C kernels: bf16 and fp32, exp, and what is not finite.

   Compilers may assume that all numbers are finite, so those that are not are found by their bits. Numbers from 2^60 count as not
   finite, too: their products could overflow. */
#include <stdint.h>
#include <string.h>

static inline float number(uint32_t i) { float f; memcpy(&f, &i, 4); return f; }
static inline uint32_t bits(float f) { uint32_t i; memcpy(&i, &f, 4); return i; }

/* exp(x) for x <= 0, with a relative error below 3e-7 + 7e-8 |x|; zero below -50, where it is negligible compared with
   exp(0) = 1, and its products would be subnormal numbers, with which a processor takes a hundred times as long. */
static inline float exp_(float x) {
  float y = (x < -50.0f ? -50.0f : x) * 1.44269504f;
  float r = __builtin_rintf(y);
  float f = y - r;
  float p = 1.5403530e-4f;
  p = p * f + 1.3333558e-3f; p = p * f + 9.6181291e-3f; p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f; p = p * f + 6.9314718e-1f; p = p * f + 1.0f;
  p *= number((uint32_t)((int32_t)r + 127) << 23);
  return x < -50.0f ? 0 : p;
}

static inline float up(uint16_t b) { return number((uint32_t)b << 16); }
static inline int odd(float f) { return (bits(f) & 0x7f800000u) == 0x7f800000u; }
static inline uint16_t down(float f) {
  uint32_t i = bits(f);
  return odd(f) ? (uint16_t)(i >> 16) | 0x40 : (uint16_t)((i + 0x7fff + ((i >> 16) & 1)) >> 16);
}

/* Read n numbers as fp32 times scale; returns whether one of them is not finite or at least 2^60 in magnitude. */
static int load(const void *src, float *dst, long n, int bf16, float scale) {
  int found = 0;
  if (bf16) {
    const uint16_t *s = src;
    for (long i = 0; i < n; i++) { found |= (s[i] & 0x7fff) >= 0x5d80; dst[i] = up(s[i]) * scale; }
  } else {
    const uint32_t *s = src;
    for (long i = 0; i < n; i++) { found |= (s[i] & 0x7fffffffu) >= 0x5d800000u; dst[i] = number(s[i]) * scale; }
  }
  return found;
}

/* Write n numbers times scale. */
static void store(const float *src, void *dst, long n, int bf16, float scale) {
  if (bf16) { uint16_t *d = dst; for (long i = 0; i < n; i++) d[i] = down(src[i] * scale); }
  else { float *d = dst; for (long i = 0; i < n; i++) d[i] = src[i] * scale; }
}
