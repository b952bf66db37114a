/* Causal attention with heads of 8 channels, forwards and backwards, and the softmax of larger heads in a backward pass, in fp32
   or bf16 with fp32 inside.

   With 8 channels, for each query a pass over its keys makes the scores and their highest, another the weights and their sum, a third the result,
   sixteen keys at a time in registers (with AVX-512). Nothing of the size of the scores is written to memory.

   Where an operand is not finite, results are NaN. */
#include "numbers.h"
#define D 8

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

/* Weights of rows first to last - 1 of scores, and slopes of the scores from those of the weights, both in place, (rows, W).
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
