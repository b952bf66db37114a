/* Operands and results of the products in bf16_attention.h. */
#include "threads.h"
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef union { __m512i row[16]; __m512 number[16]; } tile;
