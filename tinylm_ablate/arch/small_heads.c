/* Causal attention with heads of 8 channels, forwards and backwards, in fp32, or in bf16 with fp32 inside.

   With 8 channels, four queries at a time pass over their keys, a register of keys at a time (16 with AVX-512): once for the
   scores, once for the highest of them, once for the weights and their sum, and again for each result, so that a pass needs few
   registers. Nothing of the size of the scores is written to memory.

   Where an operand is not finite, or 2^60 or more, results are NaN. */
#include "numbers.h"
#include "threads.h"
#define D 8 /* channels */
#define B 4 /* queries at a time */
#if defined(__AVX512F__)
#define L 16 /* keys at a time, in a register */
#elif defined(__AVX__)
#define L 8
#else
#define L 4
#endif
/* Sequences are padded with zeros. */
#define PADDED(T) (((T) + 15) / 16 * 16)

typedef float vector __attribute__((vector_size(4 * L), aligned(4)));
typedef float quarter __attribute__((vector_size(16)));
typedef int32_t whole __attribute__((vector_size(4 * L), aligned(4)));
#define AT(p, n, T, b) ((void *)((char *)(p) + (n) * D * (T) * (b ? 2 : 4)))
#define KEYS(j, i) for (long j = 0; j <= (i); j += L)
#define CHANNELS(c) for (int c = 0; c < D; c++)
#define QUERIES(b) for (int b = 0; b < B; b++)

static const int32_t LANES[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static inline vector *at(float *p, long place) { return (vector *)(p + place); }
static inline vector larger(vector a, vector b) { vector r; for (int l = 0; l < L; l++) r[l] = a[l] > b[l] ? a[l] : b[l]; return r; }
static inline vector exps(vector x) { vector y; for (int l = 0; l < L; l++) y[l] = exp_(x[l]); return y; }
static inline quarter part(vector a, int l) { quarter p; memcpy(&p, (char *)&a + l * sizeof(float), sizeof p); return p; }
static inline float total(vector a) {
  quarter s = part(a, 0);
  for (int l = 4; l < L; l += 4) s += part(a, l);
  return (s[0] + s[2]) + (s[1] + s[3]);
}
static inline float highest(vector a) {
  quarter s = part(a, 0);
  for (int l = 4; l < L; l += 4) { quarter p = part(a, l); for (int k = 0; k < 4; k++) s[k] = s[k] > p[k] ? s[k] : p[k]; }
  float one = s[0] > s[2] ? s[0] : s[2], other = s[1] > s[3] ? s[1] : s[3];
  return one > other ? one : other;
}

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
    vector s[B] = {};
    CHANNELS(c) QUERIES(b) s[b] += x[b][c] * *at(k, c * P + j);
    QUERIES(b) *at(to, b * P + j) = s[b];
  }
}
/* Sums over the keys of weights w, (B, P), times the channels of the keys, into those of B queries from i, times factors. */
static inline void sums(float *w, float *v, float *to, long P, long i, const float *factors) {
  vector a[B][D] = {};
  KEYS(j, i) CHANNELS(c) QUERIES(b) a[b][c] += *at(w, b * P + j) * *at(v, c * P + j);
  CHANNELS(c) QUERIES(b) to[c * P + i + b] = total(a[b][c]) * factors[b];
}
/* Add weights w, (B, P), times the channels of B queries from i to those of the keys. */
static inline void spread(float *w, const float *q, float *to, long P, long i) {
  float x[B][D];
  QUERIES(b) CHANNELS(c) x[b][c] = q[c * P + i + b];
  KEYS(j, i) CHANNELS(c) {
    vector s = *at(to, c * P + j);
    QUERIES(b) s += x[b][c] * *at(w, b * P + j);
    *at(to, c * P + j) = s;
  }
}
/* Weights of the keys of B queries from i, exp(score - highest score), (B, P), and 1 / their sums. Those of future keys
   are zero. */
static inline void weigh(const float *q, float *k, float *w, long P, long i, float *inverse) {
  products(q, k, w, P, i);
  vector tops[B], sum[B] = {};
  whole future[B];
  float top[B];
  QUERIES(b) {
    vector *last = at(w, b * P + i / L * L);
    future[b] = *(const whole *)LANES > (int32_t)((i + b) % L);
    tops[b] = (vector){} - 3.4e38f;
    *last = (vector)(((whole)*last & ~future[b]) | ((whole)tops[b] & future[b]));
  }
  KEYS(j, i) QUERIES(b) tops[b] = larger(*at(w, b * P + j), tops[b]);
  QUERIES(b) top[b] = highest(tops[b]);
  KEYS(j, i) QUERIES(b) { vector e = exps(*at(w, b * P + j) - top[b]); *at(w, b * P + j) = e; sum[b] += e; }
  QUERIES(b) {
    vector *last = at(w, b * P + i / L * L);
    *last = (vector)((whole)*last & ~future[b]);
    inverse[b] = 1 / total(sum[b]);
  }
}
/* Queries, keys, values, mixed values, the gradient of these, and those of the first three; all are (N, 8, T). */
typedef struct { const void *Q, *K, *V; void *O; const void *G; void *GQ, *GK, *GV; long T; int bf16; float scale; } sequences;

/* Mixed values of sequences first to last - 1. scratch: 36 numbers per padded token. */
void forward(const sequences *job, long first, long last, float *m) {
  const void *Q = job->Q, *K = job->K, *V = job->V;
  void *O = job->O;
  const long T = job->T, P = PADDED(T);
  const int bf16 = job->bf16;
  const float scale = job->scale;
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
/* Gradients of queries, keys and values. scratch: 72 numbers per padded token. */
void backward(const sequences *job, long first, long last, float *m) {
  const void *Q = job->Q, *K = job->K, *V = job->V, *O = job->O, *G = job->G;
  void *GQ = job->GQ, *GK = job->GK, *GV = job->GV;
  const int bf16 = job->bf16;
  const float scale = job->scale;
  const long T = job->T, P = PADDED(T), size = D*T*(bf16 ? 2 : 4);
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
          vector p = *at(w, b * P + j) * inverse[b];
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
