/* Attention in bf16 with the dot products of AVX-512, on processors without a matrix unit. */
#if defined(__AVX512BF16__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
#include "tiles.h"

int usable(void) { return 1; }
static void prepare(void) {}
static void release(void) {}

/* `high` rows from row r x `columns` of tiles: their sums stay in registers, and a pair of a row serves all columns. */
static inline __attribute__((always_inline)) void rows_of(const tile *left, long lover, const tile *right, long rover, long rnext, int r, int high,
                                                          int columns, long n, int last, tile *c, int add) {
  __m512 sum[16][2];
  for (int i = 0; i < high; i++) for (int j = 0; j < columns; j++) sum[i][j] = add ? c[j].number[r + i] : _mm512_setzero_ps();
  for (long k = 0; k < n; k++, left += lover, right += rover) {
    const int pairs = k + 1 < n ? 16 : last;
    for (int p = 0; p < pairs; p++)
      for (int i = 0; i < high; i++) {
        const __m512bh pair = (__m512bh)_mm512_set1_epi32(((const int *)(left->row + r + i))[p]);
        for (int j = 0; j < columns; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], pair, (__m512bh)right[j * rnext].row[p]);
      }
  }
  for (int i = 0; i < high; i++) for (int j = 0; j < columns; j++) c[j].number[r + i] = sum[i][j];
}
static inline void multiply(const tile *left, long lover, long lnext, int rows, const tile *right, long rover, long rnext, int columns, long n,
                            int last, tile *c, int add) {
  for (int r = 0; r < rows; r += 8) {
    const tile *own = left + r / 16 * lnext;
    tile *to = c + r / 16 * 2;
    if (columns > 1) rows_of(own, lover, right, rover, rnext, r % 16, 8, 2, n, last, to, add);
    else if (rows - r > 8 && r % 16 == 0) { rows_of(own, lover, right, rover, rnext, 0, 16, 1, n, last, to, add); r += 8; }
    else rows_of(own, lover, right, rover, rnext, r % 16, 8, 1, n, last, to, add);
  }
}
#include "bf16_attention.h"
#else
int usable(void) { return 0; }
#endif
