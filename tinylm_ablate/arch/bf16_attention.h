/* Causal attention in bf16, forwards and backwards, for any size of head, on x86 processors with products in bf16.

   Everything is computed transposed, with keys as rows and queries as lanes: the softmax runs down the rows, without sums across
   lanes, and rounding weights to bf16 brings them into the order that the next product wants. Blocks are of 32 queries and 32 keys; blocks in
   the future are skipped.

   Products are of tiles, 16 rows of 64 bytes: 16 x 16 numbers in fp32, or as an operand 16 rows x 32 columns in bf16 (left), or 32 rows x
   16 columns, two rows interleaved (right). The files that include this one define them: `prepare` and `release` are called around all products of
   a thread, and

   multiply(left, lover, lnext, rows, right, rover, rnext, columns, n, last, c, add)

   computes C, 16 or 32 rows x 1 or 2 columns of tiles, (+)= sum over n of left[i][k] right[k][j]. Tiles of an operand are `over` apart in k;
   its second row or column is `next` apart. Only the first `rows` rows of the result are used, and all columns of left[i][n - 1] after its
   first `last` pairs are zero.

   Where an operand is not finite, or 2^56 or more, results are NaN. */
#define SIDE 32 /* queries or keys of a block */
#define KEPT 8  /* blocks of keys whose slopes are kept, to be added up in one product */
#define MASKED -3.4e38f

typedef struct { long batch, token, head; } strides;
/* Operands, (B, T, H, D), whose channels are contiguous, and their strides; results, (B, T, H, D), contiguous; and of each query the highest
   score and 1 / sum of exp(score - highest), (B H, T). O is a result of the forward pass, and an operand of the backward pass. */
typedef struct {
  const uint16_t *Q, *K, *V, *G;
  uint16_t *O, *GQ, *GK, *GV;
  float *tops, *inverses;
  strides by_Q, by_K, by_V, by_G, by_O;
  long H, T, D;
  float scale;
} sequences;

/* 2^((x - less) factor) for x <= less, with a relative error below 3e-6, a thousandth of that of bf16; zero
   below 2^-72, whose products would be subnormal numbers, with which a processor takes a hundred times as long. */
static inline __m512 power(__m512 x, __m512 factor, __m512 less) {
  __m512 y = (x - less) * factor, f = _mm512_reduce_ps(y, 9 /* y - floor(y) */);
  __m512 p = f * 1.3534168e-2f + 5.2011460e-2f;
  p = p * f + 2.4144275e-1f; p = p * f + 6.9300383e-1f; p = p * f + 1.0000026f;
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(y, _mm512_set1_ps(-72), _CMP_GT_OQ), p, y);
}
/* Transpose 16 x 16 words of 32 bits. */
static void turn(const tile *from, tile *to) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(from->row[i], from->row[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(from->row[i], from->row[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    a[i] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88); a[i + 4] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd);
    a[i + 8] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88); a[i + 12] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    to->row[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88); to->row[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
    to->row[i + 4] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0x88); to->row[i + 12] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0xdd);
  }
}
static inline int rows(long D, long from) { return D - from < SIDE ? D - from : SIDE; }
static inline __mmask32 channels(long D, long from) { return D - from >= 32 ? 0xffffffffu : D <= from ? 0 : (1u << (D - from)) - 1; }

/* Read a sequence, (T, D), into tiles of 16 tokens x 32 channels, filled with zeros; whether a number is not finite. */
static int fetch(const uint16_t *x, strides by, long n, long H, long T, long D, long blocks, tile *to) {
  const uint16_t *from = x + n / H * by.batch + n % H * by.head;
  const __m512i sign = _mm512_set1_epi16(0x7fff);
  __m512i largest = _mm512_setzero_si512();
  for (long t = 0; t < 2 * blocks; t++)
    for (long c = 0; c < D; c += 32, to++)
      for (long i = 0; i < 16; i++) {
        to->row[i] = 16 * t + i < T ? _mm512_maskz_loadu_epi16(channels(D, c), from + (16 * t + i) * by.token + c) : _mm512_setzero_si512();
        largest = _mm512_max_epi16(largest, _mm512_and_si512(to->row[i], sign));
      }
  return _mm512_cmpge_epi16_mask(largest, _mm512_set1_epi16(0x5b80)) != 0;
}
/* Right operand with tokens as rows: tiles of 32 tokens x 16 channels, wide of them per block. */
static void interleave(const tile *from, long blocks, long deep, long wide, tile *to) {
  for (long b = 0; b < blocks; b++)
    for (long c = 0; c < wide; c++, to++)
      for (int i = 0; i < 16; i++) {
        const __m512i *pair = from[(2 * b + i / 8) * deep + c / 2].row + i % 8 * 2;
        __m256i low = c % 2 ? _mm512_extracti64x4_epi64(pair[0], 1) : _mm512_castsi512_si256(pair[0]);
        __m256i high = c % 2 ? _mm512_extracti64x4_epi64(pair[1], 1) : _mm512_castsi512_si256(pair[1]);
        to->row[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
      }
}
static inline __m512i both(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }
/* Interleave two rows of fp32 as bf16. */
static inline __m512i paired(__m512 first, __m512 second) {
  static const uint16_t order[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_loadu_si512(order), both(first, second));
}
/* Write 32 channels x 32 tokens, 2 x 2 tiles of fp32, times factors of the tokens, as tokens from t of a sequence. */
static void write_turned(tile *c, const float *factors, long t, long T, long D, long channel, long token, uint16_t *to, int many) {
  for (int j = 0; j < 2; j++) {
    __m512 by = _mm512_loadu_ps(factors + 16 * j);
    tile words, out;
    for (int i = 0; i < 16; i++) {
      if (i / 8 >= many) { words.row[i] = _mm512_setzero_si512(); continue; }
      tile *own = c + i / 8 * 2 + j;
      words.row[i] = paired(own->number[i % 8 * 2] * by, own->number[i % 8 * 2 + 1] * by);
    }
    turn(&words, &out);
    for (long i = 0; i < 16 && t + 16 * j + i < T; i++)
      _mm512_mask_storeu_epi16(to + (t + 16 * j + i) * token + channel, channels(D, channel), out.row[i]);
  }
}
static void fill(uint16_t *to, long token, long T, long D) { for (long t = 0; t < T; t++) memset(to + t * token, 0xff, 2 * D); }

/* Scores of a block on the diagonal: future keys are masked. */
static void mask(tile *s) {
  for (int i = 0; i < 16; i++) {
    __mmask16 future = (1u << i) - 1;
    s[0].number[i] = _mm512_mask_mov_ps(s[0].number[i], future, _mm512_set1_ps(MASKED));
    s[3].number[i] = _mm512_mask_mov_ps(s[3].number[i], future, _mm512_set1_ps(MASKED));
    s[2].number[i] = _mm512_set1_ps(MASKED);
  }
}
static tile *take(char **m, long tiles) { tile *own = (tile *)*m; *m += tiles * sizeof(tile); return own; }

/* Bytes of scratch per thread. */
long room(long T, long D) {
  long blocks = (T + SIDE - 1) / SIDE, deep = (D + 31) / 32, wide = (D + 15) / 16;
  return sizeof(tile) * (blocks * (14 * deep + 8 * wide + 12 + 2 * KEPT + 2) + 8) + blocks * SIDE * 12;
}

/* Mixed values of sequences first to last - 1 of B H. */
void forward(const sequences *job, long first, long last, char *m) {
  const long H = job->H, T = job->T, D = job->D;
  const long blocks = (T + SIDE - 1) / SIDE, deep = (D + 31) / 32, wide = (D + 15) / 16, pairs = (D - 32 * deep + 33) / 2;
  tile *k = take(&m, 2 * blocks * deep), *q = take(&m, 2 * blocks * deep), *v = take(&m, blocks * wide), *s = take(&m, 4 * blocks),
       *w = take(&m, 2 * blocks), *o = take(&m, 4), *x = take(&m, 2 * blocks * deep);
  const __m512 factor = _mm512_set1_ps(job->scale * 1.44269504f);
  memset(o, 0, 4 * sizeof(tile)); /* products leave rows without channels as they are */
  prepare();
  for (long n = first; n < last; n++) {
    uint16_t *out = job->O + (n / H * T * H + n % H) * D;
    int odd = fetch(job->Q, job->by_Q, n, H, T, D, blocks, x) | fetch(job->K, job->by_K, n, H, T, D, blocks, k);
    for (long i = 0; i < 2 * blocks * deep; i++) turn(x + i, q + i);
    odd |= fetch(job->V, job->by_V, n, H, T, D, blocks, x);
    if (odd) { fill(out, H * D, T, D); continue; }
    interleave(x, blocks, deep, wide, v);
    for (long i = 0; i < blocks * wide; i++) turn(v + i, v + i);
    for (long i = 0; i < blocks; i++) {
      __m512 top[2], sum[2];
      float inverse[SIDE];
      for (long j = 0; j <= i; j++) multiply(k + 2 * j * deep, 1, deep, SIDE, q + 2 * i * deep, 1, deep, 2, deep, pairs, s + 4 * j, 0);
      mask(s + 4 * i);
      top[0] = top[1] = _mm512_set1_ps(MASKED); sum[0] = sum[1] = _mm512_setzero_ps();
      for (long j = 0; j < 4 * (i + 1); j += 2)
        for (int r = 0; r < 16; r++) { top[0] = _mm512_max_ps(top[0], s[j].number[r]); top[1] = _mm512_max_ps(top[1], s[j + 1].number[r]); }
      for (long j = 0; j <= i; j++)
        for (int r = 0; r < 16; r++) for (int c = 0; c < 2; c++) {
          const __m512 *pair = s[4 * j + r / 8 * 2 + c].number + r % 8 * 2;
          __m512 one = power(pair[0], factor, top[c]), two = power(pair[1], factor, top[c]);
          sum[c] += one + two;
          w[2 * j + c].row[r] = paired(one, two);
        }
      for (int c = 0; c < 2; c++) {
        long left = T - SIDE * i - 16 * c;
        __mmask16 own = left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1;
        sum[c] = 1 / sum[c];
        _mm512_storeu_ps(inverse + 16 * c, sum[c]);
        _mm512_mask_storeu_ps(job->tops + n * T + SIDE * i + 16 * c, own, top[c]);
        _mm512_mask_storeu_ps(job->inverses + n * T + SIDE * i + 16 * c, own, sum[c]);
      }
      for (long c = 0; c < wide; c += 2) {
        const int many = c + 1 == wide ? 1 : 2;
        multiply(v + c, wide, 1, rows(D, 16 * c), w, 2, 1, 2, i + 1, 16, o, 0);
        write_turned(o, inverse, SIDE * i, T, D, 16 * c, H * D, out, many);
      }
    }
  }
  release();
}

/* Gradients of queries, keys and values. */
void backward(const sequences *job, long first, long last, char *m) {
  uint16_t *GQ = job->GQ, *GK = job->GK, *GV = job->GV;
  const float scale = job->scale;
  const long H = job->H, T = job->T, D = job->D;
  const long blocks = (T + SIDE - 1) / SIDE, deep = (D + 31) / 32, wide = (D + 15) / 16, pairs = (D - 32 * deep + 33) / 2;
  const long one = 2 * blocks * deep, other = blocks * wide;
  tile *x = take(&m, one), *k = take(&m, one), *v = take(&m, one), *qt = take(&m, one), *gt = take(&m, one), *q = take(&m, other),
       *g = take(&m, other), *kt = take(&m, other), *gq = take(&m, 4 * blocks * ((wide + 1) / 2)), *w = take(&m, 2 * blocks),
       *d = take(&m, 2 * blocks), *ds = take(&m, 2 * blocks * KEPT), *s = take(&m, 4), *p = take(&m, 4);
  float *top = (float *)take(&m, 0), *inverse = top + blocks * SIDE, *mean = inverse + blocks * SIDE, scales[SIDE];
  for (int i = 0; i < SIDE; i++) scales[i] = scale;
  memset(top, 0, 3 * blocks * SIDE * sizeof(float));
  const __m512 factor = _mm512_set1_ps(scale * 1.44269504f);
  memset(gq, 0, 4 * blocks * ((wide + 1) / 2) * sizeof(tile)); /* as above */
  prepare();
  for (long n = first; n < last; n++) {
    const long place = (n / H * T * H + n % H) * D;
    int odd = fetch(job->Q, job->by_Q, n, H, T, D, blocks, x);
    for (long i = 0; i < one; i++) turn(x + i, qt + i);
    interleave(x, blocks, deep, wide, q);
    odd |= fetch(job->K, job->by_K, n, H, T, D, blocks, k) | fetch(job->V, job->by_V, n, H, T, D, blocks, v);
    interleave(k, blocks, deep, wide, kt);
    for (long i = 0; i < other; i++) turn(kt + i, kt + i);
    odd |= fetch(job->O, job->by_O, n, H, T, D, blocks, gt) | fetch(job->G, job->by_G, n, H, T, D, blocks, x);
    if (odd) { fill(GQ + place, H * D, T, D); fill(GK + place, H * D, T, D); fill(GV + place, H * D, T, D); continue; }
    for (long i = 0; i < T; i++) {
      __m512 sum = _mm512_setzero_ps();
      for (long c = 0; c < deep; c++) sum = _mm512_dpbf16_ps(sum, (__m512bh)x[i / 16 * deep + c].row[i % 16], (__m512bh)gt[i / 16 * deep + c].row[i % 16]);
      mean[i] = _mm512_reduce_add_ps(sum);
    }
    for (long i = 0; i < one; i++) turn(x + i, gt + i);
    interleave(x, blocks, deep, wide, g);
    memcpy(top, job->tops + n * T, T * sizeof(float)); memcpy(inverse, job->inverses + n * T, T * sizeof(float));
    for (long begin = 0; begin < blocks; begin += KEPT) {
      const long end = begin + KEPT < blocks ? begin + KEPT : blocks;
      for (long j = begin; j < end; j++) {
        for (long i = j; i < blocks; i++) {
          tile *own = ds + 2 * ((j - begin) * blocks + i);
          multiply(k + 2 * j * deep, 1, deep, SIDE, qt + 2 * i * deep, 1, deep, 2, deep, pairs, s, 0);
          multiply(v + 2 * j * deep, 1, deep, SIDE, gt + 2 * i * deep, 1, deep, 2, deep, pairs, p, 0);
          if (i == j) mask(s);
          __m512 high[2], by[2], less[2];
          for (int c = 0; c < 2; c++) {
            const long at = SIDE * i + 16 * c;
            high[c] = _mm512_loadu_ps(top + at); by[c] = _mm512_loadu_ps(inverse + at); less[c] = _mm512_loadu_ps(mean + at);
          }
          for (int r = 0; r < 32; r += 2) {
            __m512 e[2][2], f[2][2];
            for (int c = 0; c < 2; c++) {
              for (int h = 0; h < 2; h++) {
                e[h][c] = power(s[r / 16 * 2 + c].number[r % 16 + h], factor, high[c]) * by[c];
                f[h][c] = e[h][c] * (p[r / 16 * 2 + c].number[r % 16 + h] - less[c]);
              }
              own[c].row[r / 2] = paired(f[0][c], f[1][c]);
            }
            for (int h = 0; h < 2; h++) {
              w[2 * i + r / 16].row[r % 16 + h] = both(e[h][0], e[h][1]);
              d[2 * i + r / 16].row[r % 16 + h] = both(f[h][0], f[h][1]);
            }
          }
        }
        for (long c = 0; c < wide; c += 2) {
          const int many = c + 1 == wide ? 1 : 2;
          multiply(w + 2 * j, 2, 1, SIDE, g + j * wide + c, wide, 1, many, blocks - j, 16, s, 0);
          multiply(d + 2 * j, 2, 1, SIDE, q + j * wide + c, wide, 1, many, blocks - j, 16, p, 0);
          for (int r = 0; r < SIDE && SIDE * j + r < T; r++) {
            const long at = place + (SIDE * j + r) * H * D + 16 * c;
            const int l = r / 16 * 2, i = r % 16;
            _mm512_mask_storeu_epi16(GV + at, channels(D, 16 * c), both(s[l].number[i], s[l + 1].number[i]));
            _mm512_mask_storeu_epi16(GK + at, channels(D, 16 * c), both(p[l].number[i] * scale, p[l + 1].number[i] * scale));
          }
        }
      }
      for (long i = begin; i < blocks; i++)
        for (long c = 0; c < wide; c += 2) {
          const int many = c + 1 == wide ? 1 : 2;
          tile *own = gq + 4 * (i * ((wide + 1) / 2) + c / 2);
          multiply(kt + begin * wide + c, wide, 1, rows(D, 16 * c), ds + 2 * i, 2 * blocks, 1, 2, (i + 1 < end ? i + 1 : end) - begin, 16, own, begin > 0);
          if (i < end) write_turned(own, scales, SIDE * i, T, D, 16 * c, H * D, GQ + place, many);
        }
    }
  }
  release();
}
