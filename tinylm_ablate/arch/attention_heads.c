/* Causal attention with heads of 8 channels, forwards and backwards, in fp32 or bf16 with fp32 inside.

   For each query a pass over its keys makes the scores and their highest, another the weights and their sum, a third the result,
   sixteen keys at a time in registers (with AVX-512). Nothing of the size of the scores is written to memory.

   It is compiled without regard to numbers that are not finite, so these are found by their bits, and the results are NaN. */
#include <stdint.h>
#include <string.h>
#define D 8

static inline float number(uint32_t i) { float f; memcpy(&f, &i, 4); return f; }
static inline uint32_t bits(float f) { uint32_t i; memcpy(&i, &f, 4); return i; }

/* exp(x) for x <= 0, with a relative error of 2e-7. */
static inline float exp_(float x) {
  x = x < -87.0f ? -87.0f : x;
  float y = x * 1.44269504f;
  float r = __builtin_rintf(y);
  float f = y - r;
  float p = 1.5403530e-4f;
  p = p * f + 1.3333558e-3f; p = p * f + 9.6181291e-3f; p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f; p = p * f + 6.9314718e-1f; p = p * f + 1.0f;
  return p * number((uint32_t)((int32_t)r + 127) << 23);
}

static inline float up(uint16_t b) { return number((uint32_t)b << 16); }
static inline int odd(float f) { return (bits(f) & 0x7f800000u) == 0x7f800000u; }
static inline uint16_t down(float f) {
  uint32_t i = bits(f);
  return odd(f) ? (uint16_t)(i >> 16) | 0x40 : (uint16_t)((i + 0x7fff + ((i >> 16) & 1)) >> 16);
}


/* Read n numbers as fp32 times scale; returns whether one of them is not finite. */
static int load(const void *src, float *dst, long n, int bf16, float scale) {
  int found = 0;
  if (bf16) {
    const uint16_t *s = src;
    for (long i = 0; i < n; i++) { found |= (s[i] & 0x7f80) == 0x7f80; dst[i] = up(s[i]) * scale; }
  } else {
    const uint32_t *s = src;
    for (long i = 0; i < n; i++) { found |= (s[i] & 0x7f800000u) == 0x7f800000u; dst[i] = number(s[i]) * scale; }
  }
  return found;
}

/* Write n numbers times scale. */
static void store(const float *src, void *dst, long n, int bf16, float scale) {
  if (bf16) { uint16_t *d = dst; for (long i = 0; i < n; i++) d[i] = down(src[i] * scale); }
  else { float *d = dst; for (long i = 0; i < n; i++) d[i] = src[i] * scale; }
}
#define AT(p, n, T, b) ((const char *)(p) + (n) * D * (T) * (b ? 2 : 4))
/* Weights of the keys up to query i, exp(score - highest score), into w; returns 1 / their sum, or NaN where a score overflows. */
static inline float weigh(const float *q, const float *k, float *w, long T, long i) {
  const float q0=q[i],q1=q[T+i],q2=q[2*T+i],q3=q[3*T+i],q4=q[4*T+i],q5=q[5*T+i],q6=q[6*T+i],q7=q[7*T+i];
  float top = -3.4e38f;
  for (long j = 0; j <= i; j++) {
    float s = q0*k[j]+q1*k[T+j]+q2*k[2*T+j]+q3*k[3*T+j]+q4*k[4*T+j]+q5*k[5*T+j]+q6*k[6*T+j]+q7*k[7*T+j];
    w[j] = s; top = s > top ? s : top;
  }
  if (odd(top)) return number(0x7fc00000u);
  float sum = 0;
  for (long j = 0; j <= i; j++) { w[j] = exp_(w[j] - top); sum += w[j]; }
  return 1 / sum;
}
/* Mixed values O of sequences first to last - 1; every operand is (N, 8, T). m: scratch of 33 T numbers. */
void forward(const void *Q, const void *K, const void *V, void *O, long first, long last, long T, int bf16, float scale, float *m) {
  float *q = m, *k = m + D*T, *v = m + 2*D*T, *o = m + 3*D*T, *w = m + 4*D*T;
  for (long n = first; n < last; n++) {
    if (load(AT(Q,n,T,bf16), q, D*T, bf16, scale) | load(AT(K,n,T,bf16), k, D*T, bf16, 1) | load(AT(V,n,T,bf16), v, D*T, bf16, 1)) {
      memset((void *)AT(O,n,T,bf16), 0xff, D*T*(bf16 ? 2 : 4)); /* NaN */
      continue;
    }
    for (long i = 0; i < T; i++) {
      float inv = weigh(q, k, w, T, i);
      float a0=0,a1=0,a2=0,a3=0,a4=0,a5=0,a6=0,a7=0;
      for (long j = 0; j <= i; j++) { float p = w[j];
        a0+=p*v[j];a1+=p*v[T+j];a2+=p*v[2*T+j];a3+=p*v[3*T+j];a4+=p*v[4*T+j];a5+=p*v[5*T+j];a6+=p*v[6*T+j];a7+=p*v[7*T+j]; }
      o[i]=a0*inv;o[T+i]=a1*inv;o[2*T+i]=a2*inv;o[3*T+i]=a3*inv;o[4*T+i]=a4*inv;o[5*T+i]=a5*inv;o[6*T+i]=a6*inv;o[7*T+i]=a7*inv;
    }
    store(o, (void *)AT(O,n,T,bf16), D*T, bf16, 1);
  }
}
/* Gradients GQ, GK, GV from G, that of the mixed values. m: scratch of 65 T numbers. */
void backward(const void *G, const void *Q, const void *K, const void *V, const void *O, void *GQ, void *GK, void *GV,
              long first, long last, long T, int bf16, float scale, float *m) {
  float *q=m,*k=m+D*T,*v=m+2*D*T,*o=m+3*D*T,*g=m+4*D*T,*gq=m+5*D*T,*gk=m+6*D*T,*gv=m+7*D*T,*w=m+8*D*T;
  for (long n = first; n < last; n++) {
    if (load(AT(Q,n,T,bf16), q, D*T, bf16, scale) | load(AT(K,n,T,bf16), k, D*T, bf16, 1) | load(AT(V,n,T,bf16), v, D*T, bf16, 1) |
        load(AT(O,n,T,bf16), o, D*T, bf16, 1) | load(AT(G,n,T,bf16), g, D*T, bf16, 1)) {
      long size = D*T*(bf16 ? 2 : 4);
      memset((void *)AT(GQ,n,T,bf16), 0xff, size); memset((void *)AT(GK,n,T,bf16), 0xff, size); memset((void *)AT(GV,n,T,bf16), 0xff, size);
      continue;
    }
    memset(gk, 0, 2*D*T*sizeof(float));
    for (long i = 0; i < T; i++) {
      float inv = weigh(q, k, w, T, i), mean = 0;
      for (int c = 0; c < D; c++) mean += g[c*T+i]*o[c*T+i];
      const float g0=g[i],g1=g[T+i],g2=g[2*T+i],g3=g[3*T+i],g4=g[4*T+i],g5=g[5*T+i],g6=g[6*T+i],g7=g[7*T+i];
      const float q0=q[i],q1=q[T+i],q2=q[2*T+i],q3=q[3*T+i],q4=q[4*T+i],q5=q[5*T+i],q6=q[6*T+i],q7=q[7*T+i];
      float a0=0,a1=0,a2=0,a3=0,a4=0,a5=0,a6=0,a7=0;
      _Pragma("GCC ivdep")
      for (long j = 0; j <= i; j++) {
        float p = w[j]*inv;
        float s = g0*v[j]+g1*v[T+j]+g2*v[2*T+j]+g3*v[3*T+j]+g4*v[4*T+j]+g5*v[5*T+j]+g6*v[6*T+j]+g7*v[7*T+j];
        s = p*(s-mean);
        a0+=s*k[j];a1+=s*k[T+j];a2+=s*k[2*T+j];a3+=s*k[3*T+j];a4+=s*k[4*T+j];a5+=s*k[5*T+j];a6+=s*k[6*T+j];a7+=s*k[7*T+j];
        gk[j]+=s*q0;gk[T+j]+=s*q1;gk[2*T+j]+=s*q2;gk[3*T+j]+=s*q3;gk[4*T+j]+=s*q4;gk[5*T+j]+=s*q5;gk[6*T+j]+=s*q6;gk[7*T+j]+=s*q7;
        gv[j]+=p*g0;gv[T+j]+=p*g1;gv[2*T+j]+=p*g2;gv[3*T+j]+=p*g3;gv[4*T+j]+=p*g4;gv[5*T+j]+=p*g5;gv[6*T+j]+=p*g6;gv[7*T+j]+=p*g7;
      }
      gq[i]=a0;gq[T+i]=a1;gq[2*T+i]=a2;gq[3*T+i]=a3;gq[4*T+i]=a4;gq[5*T+i]=a5;gq[6*T+i]=a6;gq[7*T+i]=a7;
    }
    store(gq, (void *)AT(GQ,n,T,bf16), D*T, bf16, scale); store(gk, (void *)AT(GK,n,T,bf16), D*T, bf16, 1); store(gv, (void *)AT(GV,n,T,bf16), D*T, bf16, 1);
  }
}
