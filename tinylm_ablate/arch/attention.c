/* Causal attention with heads of 8 channels, forwards and backwards, and the softmax of larger heads in a backward pass, in fp32
   or bf16 with fp32 inside.

   With 8 channels, four queries at a time pass over their keys, sixteen keys at a time (one register with AVX-512): once for the
   scores, once for the highest of them, once for the weights and their sum, and again for each result, so that a pass needs few
   registers. Nothing of the size of the scores is written to memory.

   Where an operand is not finite, or 2^60 or more, results are NaN. */
#include "numbers.h"
#define D 8  /* channels */
#define L 16 /* keys at a time; sequences are padded to a multiple of them with zeros */
#define B 4  /* queries at a time */

typedef float f16 __attribute__((vector_size(4 * L), aligned(4)));
typedef int32_t i16 __attribute__((vector_size(4 * L), aligned(4)));
typedef float f8 __attribute__((vector_size(2 * L)));
typedef float f4 __attribute__((vector_size(L)));
#define AT(p, n, T, b) ((void *)((char *)(p) + (n) * D * (T) * (b ? 2 : 4)))
#define KEYS(j, i) for (long j = 0; j <= (i); j += L)
#define CHANNELS(c) for (int c = 0; c < D; c++)
#define QUERIES(b) for (int b = 0; b < B; b++)

static const i16 LANES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static inline f16 *at(float *p, long place) { return (f16 *)(p + place); }
static inline f16 larger(f16 a, f16 b) { f16 r; for (int l = 0; l < L; l++) r[l] = a[l] > b[l] ? a[l] : b[l]; return r; }
static inline float total(f16 a) {
  f8 x, y; f4 u, v;
  memcpy(&x, &a, sizeof x); memcpy(&y, (char *)&a + sizeof x, sizeof y); x += y;
  memcpy(&u, &x, sizeof u); memcpy(&v, (char *)&x + sizeof u, sizeof v); u += v;
  return (u[0] + u[2]) + (u[1] + u[3]);
}
static inline float highest(f16 a) {
  f8 x, y; f4 u, v;
  memcpy(&x, &a, sizeof x); memcpy(&y, (char *)&a + sizeof x, sizeof y);
  for (int l = 0; l < 8; l++) x[l] = x[l] > y[l] ? x[l] : y[l];
  memcpy(&u, &x, sizeof u); memcpy(&v, (char *)&x + sizeof u, sizeof v);
  for (int l = 0; l < 4; l++) u[l] = u[l] > v[l] ? u[l] : v[l];
  float one = u[0] > u[2] ? u[0] : u[2], other = u[1] > u[3] ? u[1] : u[3];
  return one > other ? one : other;
}
static inline f16 exps(f16 x) { f16 y; for (int l = 0; l < L; l++) y[l] = exp_(x[l]); return y; }

/* Read (8, T) numbers into rows of P; see load. */
static int rows(const void *src, float *dst, long T, long P, int bf16, float scale) {
  int found = 0;
  CHANNELS(c) {
    found |= load((const char *)src + c * T * (bf16 ? 2 : 4), dst + c * P, T, bf16, scale);
    memset(dst + c * P + T, 0, (P - T) * sizeof(float));
  }
  return found;
}
static void store_rows(const float *src, void *dst, long T, long P, int bf16, float scale) {
  CHANNELS(c) store(src + c * P, (char *)dst + c * T * (bf16 ? 2 : 4), T, bf16, scale);
}

/* Products of the channels of B queries from i with those of all keys up to them, (B, P). */
static inline void products(const float *q, float *k, float *to, long P, long i) {
  float x[B][D];
  QUERIES(b) CHANNELS(c) x[b][c] = q[c * P + i + b];
  KEYS(j, i) {
    f16 s[B] = {};
    CHANNELS(c) QUERIES(b) s[b] += x[b][c] * *at(k, c * P + j);
    QUERIES(b) *at(to, b * P + j) = s[b];
  }
}
/* Sums over the keys of weights w, (B, P), times the channels of the keys, into those of B queries from i, times factors. */
static inline void sums(float *w, float *v, float *to, long P, long i, const float *factors) {
  f16 a[B][D] = {};
  KEYS(j, i) CHANNELS(c) QUERIES(b) a[b][c] += *at(w, b * P + j) * *at(v, c * P + j);
  CHANNELS(c) QUERIES(b) to[c * P + i + b] = total(a[b][c]) * factors[b];
}
/* Add weights w, (B, P), times the channels of B queries from i to those of the keys. */
static inline void spread(float *w, const float *q, float *to, long P, long i) {
  float x[B][D];
  QUERIES(b) CHANNELS(c) x[b][c] = q[c * P + i + b];
  KEYS(j, i) CHANNELS(c) {
    f16 s = *at(to, c * P + j);
    QUERIES(b) s += x[b][c] * *at(w, b * P + j);
    *at(to, c * P + j) = s;
  }
}
/* Weights of the keys of B queries from i, exp(score - highest score), (B, P), and 1 / their sums. Those of future keys
   are zero. */
static inline void weigh(const float *q, float *k, float *w, long P, long i, float *inverse) {
  products(q, k, w, P, i);
  f16 tops[B], sum[B] = {};
  i16 future[B];
  float top[B];
  QUERIES(b) {
    f16 *last = at(w, b * P + i / L * L);
    future[b] = LANES > (int32_t)((i + b) % L);
    tops[b] = (f16){} - 3.4e38f;
    *last = (f16)(((i16)*last & ~future[b]) | ((i16)tops[b] & future[b]));
  }
  KEYS(j, i) QUERIES(b) tops[b] = larger(*at(w, b * P + j), tops[b]);
  QUERIES(b) top[b] = highest(tops[b]);
  KEYS(j, i) QUERIES(b) { f16 e = exps(*at(w, b * P + j) - top[b]); *at(w, b * P + j) = e; sum[b] += e; }
  QUERIES(b) {
    f16 *last = at(w, b * P + i / L * L);
    *last = (f16)((i16)*last & ~future[b]);
    inverse[b] = 1 / total(sum[b]);
  }
}
/* Mixed values O of sequences first to last - 1; every operand is (N, 8, T). m: scratch of 36 numbers per padded token. */
void forward(const void *Q, const void *K, const void *V, void *O, long first, long last, long T, int bf16, float scale, float *m) {
  const long P = (T + L - 1) / L * L;
  float *q = m, *k = q + D*P, *v = k + D*P, *o = v + D*P, *w = o + D*P, inverse[B];
  for (long n = first; n < last; n++) {
    if (rows(AT(Q,n,T,bf16), q, T, P, bf16, scale) | rows(AT(K,n,T,bf16), k, T, P, bf16, 1) | rows(AT(V,n,T,bf16), v, T, P, bf16, 1)) {
      memset(AT(O,n,T,bf16), 0xff, D*T*(bf16 ? 2 : 4)); /* NaN */
      continue;
    }
    for (long i = 0; i < T; i += B) {
      weigh(q, k, w, P, i, inverse);
      sums(w, v, o, P, i, inverse);
    }
    store_rows(o, AT(O,n,T,bf16), T, P, bf16, 1);
  }
}
/* Gradients GQ, GK, GV from G, that of the mixed values. m: scratch of 72 numbers per padded token. */
void backward(const void *G, const void *Q, const void *K, const void *V, const void *O, void *GQ, void *GK, void *GV,
              long first, long last, long T, int bf16, float scale, float *m) {
  const long P = (T + L - 1) / L * L, size = D*T*(bf16 ? 2 : 4);
  float *q=m,*k=q+D*P,*v=k+D*P,*o=v+D*P,*g=o+D*P,*gq=g+D*P,*gk=gq+D*P,*gv=gk+D*P,*w=gv+D*P,*s=w+B*P, inverse[B], ones[B];
  QUERIES(b) ones[b] = 1;
  for (long n = first; n < last; n++) {
    if (rows(AT(Q,n,T,bf16), q, T, P, bf16, scale) | rows(AT(K,n,T,bf16), k, T, P, bf16, 1) | rows(AT(V,n,T,bf16), v, T, P, bf16, 1) |
        rows(AT(O,n,T,bf16), o, T, P, bf16, 1) | rows(AT(G,n,T,bf16), g, T, P, bf16, 1)) {
      memset(AT(GQ,n,T,bf16), 0xff, size); memset(AT(GK,n,T,bf16), 0xff, size); memset(AT(GV,n,T,bf16), 0xff, size);
      continue;
    }
    memset(gk, 0, 2*D*P*sizeof(float));
    for (long i = 0; i < T; i += B) {
      weigh(q, k, w, P, i, inverse);
      products(g, v, s, P, i); /* slopes of the weights */
      QUERIES(b) {
        float mean = 0;
        CHANNELS(c) mean += g[c*P+i+b] * o[c*P+i+b];
        KEYS(j, i) {
          f16 p = *at(w, b * P + j) * inverse[b];
          *at(w, b * P + j) = p;
          *at(s, b * P + j) = p * (*at(s, b * P + j) - mean);
        }
      }
      sums(s, k, gq, P, i, ones);
      spread(s, q, gk, P, i);
      spread(w, g, gv, P, i);
    }
    store_rows(gq, AT(GQ,n,T,bf16), T, P, bf16, scale); store_rows(gk, AT(GK,n,T,bf16), T, P, bf16, 1); store_rows(gv, AT(GV,n,T,bf16), T, P, bf16, 1);
  }
}

/* Weights from rows first to last - 1 of scores, and slopes of the scores from those of the weights, both in place, (rows, W).
   Row i, which is query start + i % block, has keys up to its own; weights and slopes of later ones are zero. G, O: gradient of
   the mixed values and these, (rows, C). m: scratch of 2 W numbers. */
void weigh_rows(void *scores, void *slopes, const void *G, const void *O, long first, long last, long W, long C, long block,
                long start, int bf16, float scale, float *m) {
  float *w = m, *s = m + W;
  long size = bf16 ? 2 : 4;
  for (long i = first; i < last; i++) {
    char *own = (char *)scores + i * W * size, *slope = (char *)slopes + i * W * size;
    const char *g = (const char *)G + i * C * size, *o = (const char *)O + i * C * size;
    long keys = start + i % block + 1;
    float top = -3.4e38f, sum = 0, mean = 0;
    if (bf16) for (long c = 0; c < C; c++) mean += up(((const uint16_t *)g)[c]) * up(((const uint16_t *)o)[c]);
    else for (long c = 0; c < C; c++) mean += ((const float *)g)[c] * ((const float *)o)[c];
    if (load(own, w, keys, bf16, scale) | load(slope, s, keys, bf16, 1) | odd(mean)) {
      memset(own, 0xff, W * size); memset(slope, 0xff, W * size); /* NaN */
      continue;
    }
    for (long j = 0; j < keys; j++) top = w[j] > top ? w[j] : top;
    for (long j = 0; j < keys; j++) { w[j] = exp_(w[j] - top); sum += w[j]; }
    float inv = 1 / sum;
    for (long j = 0; j < keys; j++) { w[j] *= inv; s[j] = w[j] * (s[j] - mean); }
    store(w, own, keys, bf16, 1); store(s, slope, keys, bf16, scale);
    memset(own + keys * size, 0, (W - keys) * size); memset(slope + keys * size, 0, (W - keys) * size);
  }
}
