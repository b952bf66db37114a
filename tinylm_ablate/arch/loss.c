/* Cross-entropy of rows of logits, and its slopes in their place, in fp32 or bf16 with fp32 inside.

   A row stays in the cache between its passes. Where a logit is not finite (or 2^60 or more), or a target is not from 0 to V - 1,
   the loss and the slopes of the row are NaN. */
#include <math.h>
#include "numbers.h"
#include "threads.h"

/* targets: one id per row of V logits, or ignored, where loss and slopes are zero. */
typedef struct { void *logits; const int64_t *targets; float *losses; long V; int64_t ignored; int bf16, slopes; } logit_rows;

/* Rows first to last - 1. scratch: V numbers. */
void cross_entropy(const logit_rows *job, long first, long last, float *m) {
  void *logits = job->logits;
  const int64_t *targets = job->targets, ignored = job->ignored;
  float *losses = job->losses;
  const long V = job->V;
  const int bf16 = job->bf16, slopes = job->slopes;
  for (long n = first; n < last; n++) {
    long size = V * (bf16 ? 2 : 4);
    char *row = (char *)logits + n * size;
    if (targets[n] == ignored) {
      losses[n] = 0;
      if (slopes) memset(row, 0, size);
      continue;
    }
    if (targets[n] < 0 || targets[n] >= V || load(row, m, V, bf16, 1)) {
      losses[n] = number(0x7fc00000u);
      if (slopes) memset(row, 0xff, size); /* NaN */
      continue;
    }
    float own = m[targets[n]], top = own, sum = 0;
    for (long j = 0; j < V; j++) top = m[j] > top ? m[j] : top;
    for (long j = 0; j < V; j++) { m[j] = exp_(m[j] - top); sum += m[j]; }
    losses[n] = logf(sum) + ((double)top - own); /* in double, since logits may be large and their difference small */
    if (slopes) { /* softmax - one-hot */
      m[targets[n]] -= sum;
      store(m, row, V, bf16, 1 / sum);
    }
  }
}
