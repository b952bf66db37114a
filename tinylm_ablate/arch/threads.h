/* A kernel's items, divided among PyTorch's threads. Threads of our own would compete for the cores with PyTorch's, which stay awake
   for a while after each of its functions. */
typedef void (*kernel)(const void *job, long first, long last, void *scratch);
static struct { void (*parallel)(void (*)(void *), void *, unsigned, unsigned); int (*own)(void), (*all)(void); } omp;
typedef struct { kernel part; const void *job; long count; char *scratch; long bytes; } division;

/* Set the functions of PyTorch's OpenMP: GOMP_parallel, omp_get_thread_num and omp_get_num_threads. */
void use(void *parallel, void *own, void *all) { omp.parallel = parallel; omp.own = own; omp.all = all; }

static void own_part(void *given) {
  const division *d = given;
  const long own = omp.own(), all = omp.all();
  d->part(d->job, d->count * own / all, d->count * (own + 1) / all, d->scratch + own * d->bytes);
}
/* Run a kernel on items 0 to count - 1; scratch has room for `bytes` per thread. */
void divide(kernel part, const void *job, long count, int threads, char *scratch, long bytes) {
  division d = {part, job, count, scratch, bytes};
  omp.parallel(own_part, &d, threads, 0);
}
