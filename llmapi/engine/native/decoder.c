/* The LLaMA-family decoder on a CPU: one call computes one step for every sequence of the batch.

   All rows (tokens) of the step lie below each other, whatever sequence they belong to; only
   attention tells them apart. A team of threads walks through the phases of each layer (team.h);
   a thread writes what others see only between may_commit and committed. Every row is computed in the same order of operations whatever else is
   in the batch, so an answer is the same, bit for bit, alone and in company.

   Weights are packed in panels of PANEL output features, so that a panel's numbers for one input
   feature are two vector registers and no sum ever runs across a register:

     float32, bfloat16   [panel][in][PANEL]
     int8                [panel][in / STEP][PANEL][STEP], and a bfloat16 scale for each GROUP inputs
                         of each output: [panel][in / GROUP][PANEL]

   With int8 weights the activations are quantised too, per row and GROUP (the idea of llama.cpp's
   Q8_0): sums of products are exact integers, scaled once per group.

   What goes into a product is packed as well, a tile (the rows whose sums fit into registers) after
   the other: [in / GROUP][tile's rows][GROUP], so that one pointer reaches every row of the tile.

   The cache holds, per layer, key/value head and block of BLOCK positions, keys as [dim][BLOCK]
   (so that BLOCK scores come out of one register) and values as [BLOCK][dim]: float32, or bfloat16
   where the weights are not float32, for at batch 32 the cache is read no faster than they. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include "team.h"

#define BLOCK 16
#define GROUP 32
#define SPAN 128 /* positions whose scores are held at once */
#define MAX_QUERIES 32

/* LANES: numbers in a register. STEP: products of int8 that one instruction adds up. Both may be
   given to the compiler, so that the tests see every layout of the weights on any CPU. */
#if !defined(LANES) && defined(__AVX512F__)
#define LANES 16
#elif !defined(LANES)
#define LANES 8
#endif
#if !defined(STEP) && LANES == 16 && defined(__AVX512VNNI__)
#define STEP 4
#elif !defined(STEP)
#define STEP 2
#endif
#define VECTORS 2
#define PANEL (VECTORS * LANES)
#define TILE (LANES == 16 ? 8 : 6) /* rows whose sums stay in registers */
#define TILES_AT_ONCE 12           /* at most: their inputs stay in the second-level cache */
#define QUERIES 6                  /* whose sums, of PANEL numbers each, stay in registers */
#if STEP == 4
typedef int8_t code; /* a quantised activation */
#else
typedef int16_t code;
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef code codes_vec __attribute__((vector_size(sizeof(code) * LANES), aligned(1), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define EACH(i, n) for (int64_t i = 0; i < (n); i++)
#define UNROLL _Pragma("GCC unroll 16")

enum { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

typedef struct {
    const void *weights;
    const uint16_t *scales; /* int8 only */
    const float *bias;      /* [out], or none */
    int64_t in, out;        /* in: a multiple of GROUP */
    int64_t kind;
} Linear;

typedef struct { /* the rows that go into a product, in tiles */
    void *values;    /* float, or codes where the weights are int8; then for each row and group: */
    float *scales;   /* what a code of 1 stands for */
    int32_t *starts; /* what sums of products begin with, see `dot` */
} Inputs;

enum { QKV, O, GATE_UP, DOWN, PRODUCTS };

typedef struct { /* what an adapter adds to a product: B (A x), its scale in B */
    const float *a; /* [rank][in] */
    const float *b; /* in panels as the product's weights: [panel][rank][PANEL] */
    int64_t rank, in; /* rank: 0 if it adds nothing */
} Delta;

typedef struct {
    Delta of[PRODUCTS];
} AdapterLayer;

typedef struct {
    Linear qkv, o, gate_up, down; /* gate_up: panels of gate and up in turn */
    const float *attention_norm, *mlp_norm, *q_norm, *k_norm;
    void *keys, *values; /* the cache */
    int64_t window;      /* 0: none */
} Layer;

typedef struct {
    const Layer *layers;
    const float *embedding, *norm;
    const float *cos, *sin; /* [positions][head_dim / 2] */
    int64_t layer_count, hidden, heads, kv_heads, head_dim, inner, blocks, threads;
    int64_t narrow; /* the cache holds bfloat16 */
    float epsilon, scale;
    /* scratch for the longest step, [rows][...] */
    float *state, *normed, *qkv, *attended, *activated;
    Inputs inputs;
    float *low;        /* [rows][most_rank]: A x of the product that comes next */
    int64_t most_rank; /* of all adapters */
} Decoder;

typedef struct { /* up to MAX_QUERIES / group rows of one sequence */
    int64_t row, rows, position, table; /* first row, its position, where its blocks begin */
} Piece;

typedef struct {
    int64_t rows, pieces;
    const int64_t *tokens, *positions, *slots; /* slot: block * BLOCK + place in it */
    const Piece *piece;
    const int64_t *tables;
    const AdapterLayer *const *adapters; /* of each row: its adapter's layers, or none; or none at all */
    float *out; /* [rows][hidden]: the last hidden states, normalised */
} Step;

/* ---- numbers ---------------------------------------------------------------------------------- */

INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE ivec load_ints(const int32_t *from) { return *(const ivec *)from; }
INLINE void store(float *to, vec value) { *(vec *)to = value; }

INLINE vec widen(const uint16_t *from) { /* bfloat16 is the upper half of a float32 */
    ivec bits = __builtin_convertvector(*(const hvec *)from, ivec) << 16;
    return (vec)bits;
}

INLINE vec read(const void *from, int64_t at, const int narrow) {
    return narrow ? widen((const uint16_t *)from + at) : load((const float *)from + at);
}

INLINE uint16_t bfloat16_near(float x) { /* ties to even; NaN stays NaN */
    union { float f; uint32_t i; } bits = {x};
    if (x != x) return 0x7fc0;
    return (uint16_t)((bits.i + 0x7fff + (bits.i >> 16 & 1)) >> 16);
}

INLINE void write(void *to, int64_t at, float x, int64_t narrow) {
    if (narrow)
        ((uint16_t *)to)[at] = bfloat16_near(x);
    else
        ((float *)to)[at] = x;
}

INLINE float widen_one(const uint16_t *from) {
    union { uint32_t i; float f; } bits = {(uint32_t)*from << 16};
    return bits.f;
}

INLINE ivec either(ivec mask, ivec yes, ivec no) { return (mask & yes) | (~mask & no); }
INLINE vec where(ivec mask, vec yes, vec no) { return (vec)either(mask, (ivec)yes, (ivec)no); }

INLINE ivec turned(ivec x, const int by) { /* lane i is lane i + by, round and round */
    static const int32_t lane[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                   12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23};
    return __builtin_shuffle(x, load_ints(lane + by));
}

INLINE vec larger(vec a, vec b) { return where(a > b, a, b); }
INLINE ivec greater(ivec a, ivec b) { return either(a > b, a, b); }

/* x[0] is then all lanes joined. */
#define JOIN(x, join) UNROLL for (int by = LANES / 2; by; by /= 2) x = join(x, turned((ivec)x, by))
#define ADD_FLOATS(a, b) (a) + (vec)(b)
#define ADD_INTS(a, b) (a) + (b)
#define LARGER(a, b) larger(a, (vec)(b))

INLINE float sum_of(vec x) { JOIN(x, ADD_FLOATS); return x[0]; }
INLINE int32_t total_of(ivec x) { JOIN(x, ADD_INTS); return x[0]; }
INLINE float largest_of(vec x) { JOIN(x, LARGER); return x[0]; }
INLINE int32_t greatest_of(ivec x) { JOIN(x, greater); return x[0]; }

INLINE ivec nearest(vec x) { /* of |x| < 2^22: its bits, where the last one stands for 1 */
    return (ivec)(x + 12582912.0f) - 0x4b400000;
}

INLINE vec exponential(vec x) { /* Cephes' expf: 2 ulp; NaN stays NaN, -inf gives about 1e-38 */
    x = where(x < -87.0f, (vec){0} - 87.0f, x);
    x = where(x > 88.0f, (vec){0} + 88.0f, x);
    ivec turns = nearest(x * 1.44269504f);
    vec n = __builtin_convertvector(turns, vec);
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = (vec){0} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * r * r + r + 1.0f) * (vec)((turns + 127) << 23);
}

/* ---- products --------------------------------------------------------------------------------- */

typedef struct { /* some of the rows, as equal as can be: TILE at most */
    int64_t first, rows;
} Tile;

INLINE int64_t tiles_of(int64_t rows) { return (rows + TILE - 1) / TILE; }

INLINE Tile tile_at(int64_t number, int64_t rows) {
    int64_t tiles = tiles_of(rows), first = rows * number / tiles;
    return (Tile){first, rows * (number + 1) / tiles - first};
}

INLINE Tile tile_with(int64_t row, int64_t rows) {
    return tile_at(((row + 1) * tiles_of(rows) - 1) / rows, rows);
}

typedef float Sums[TILE][PANEL];

INLINE void multiply_float(const int rows, const int narrow, const Linear *w, int64_t panel,
                           const Inputs *inputs, int64_t row, Sums out) {
    vec sums[TILE][VECTORS] = {0};
    const float *x = (const float *)inputs->values + row * w->in;
    int64_t at = panel * w->in * PANEL;
    EACH(g, w->in / GROUP) {
        EACH(k, GROUP) {
            vec weights[VECTORS];
            UNROLL EACH(v, VECTORS) weights[v] = read(w->weights, at + v * LANES, narrow);
            UNROLL EACH(r, rows) UNROLL EACH(v, VECTORS) sums[r][v] += x[r * GROUP + k] * weights[v];
            at += PANEL;
        }
        x += rows * GROUP;
    }
    UNROLL EACH(r, rows) UNROLL EACH(v, VECTORS) store(out[r] + v * LANES, sums[r][v]);
}

/* STEP products for each lane, added to its sum. With a STEP of 4 the instruction wants unsigned
   times signed: the weights carry +128, which the sum's start takes back. */
INLINE ivec dot(ivec sum, const int8_t *weights, int64_t v, const code *x) {
    int32_t broadcast;
    memcpy(&broadcast, x, 4);
#if STEP == 4 && LANES == 16 && defined(__AVX512VNNI__)
    __m512i w = _mm512_loadu_si512(weights + v * 64);
    return (ivec)_mm512_dpbusd_epi32((__m512i)sum, w, _mm512_set1_epi32(broadcast));
#elif STEP == 2 && LANES == 16 && defined(__AVX512BW__)
    __m512i w = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(weights + v * 32)));
    return sum + (ivec)_mm512_madd_epi16(w, _mm512_set1_epi32(broadcast));
#elif STEP == 2 && LANES == 8 && defined(__AVX2__)
    __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(weights + v * 16)));
    return sum + (ivec)_mm256_madd_epi16(w, _mm256_set1_epi32(broadcast));
#else
    EACH(lane, LANES) EACH(s, STEP) {
        int8_t weight = weights[(v * LANES + lane) * STEP + s];
        sum[lane] += (STEP == 4 ? (int32_t)(uint8_t)weight : weight) * x[s];
    }
    return sum;
#endif
}

INLINE void multiply_int8(const int rows, const Linear *w, int64_t panel, const Inputs *inputs,
                          int64_t row, Sums out) {
    const int64_t in = w->in, groups = in / GROUP;
    const int8_t *weights = (const int8_t *)w->weights + panel * in * PANEL;
    const uint16_t *scales = w->scales + panel * groups * PANEL;
    const code *x = (const code *)inputs->values + row * in;
    const float *x_scales = inputs->scales + row * groups;
    const int32_t *starts = inputs->starts + row * groups;
    int64_t steps = GROUP / STEP;
    __asm__("" : "+r"(steps)); /* unrolled, the loop would spill its sums (gcc 12) */
    vec sums[TILE][VECTORS] = {0};
    EACH(g, groups) {
        ivec exact[TILE][VECTORS];
        UNROLL EACH(r, rows) UNROLL EACH(v, VECTORS) {
            exact[r][v] = (ivec){0};
            if (STEP == 4) exact[r][v] += starts[r];
        }
        EACH(k, steps) {
            UNROLL EACH(r, rows) UNROLL EACH(v, VECTORS)
                exact[r][v] = dot(exact[r][v], weights, v, x + r * GROUP + k * STEP);
            weights += PANEL * STEP;
        }
        UNROLL EACH(v, VECTORS) {
            vec scale = widen(scales + v * LANES);
            UNROLL EACH(r, rows)
                sums[r][v] += __builtin_convertvector(exact[r][v], vec) * (scale * x_scales[r]);
        }
        scales += PANEL;
        x += rows * GROUP;
        x_scales += rows;
        starts += rows;
    }
    UNROLL EACH(r, rows) UNROLL EACH(v, VECTORS) store(out[r] + v * LANES, sums[r][v]);
}

INLINE void multiply(const int rows, const Linear *w, int64_t panel, const Inputs *x, int64_t row,
                     Sums out) {
    if (w->kind == INT8)
        multiply_int8(rows, w, panel, x, row, out);
    else if (w->kind == BFLOAT16)
        multiply_float(rows, 1, w, panel, x, row, out);
    else
        multiply_float(rows, 0, w, panel, x, row, out);
    if (w->bias)
        EACH(r, rows) EACH(c, PANEL) {
            int64_t feature = panel * PANEL + c;
            if (feature < w->out) out[r][c] += w->bias[feature];
        }
}

static void product(Tile tile, const Linear *w, int64_t panel, const Inputs *x, float (*out)[PANEL]) {
    switch (tile.rows) {
#define CASE(n) case n: multiply(n, w, panel, x, tile.first, out); break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if LANES == 16
        CASE(7) CASE(8)
#endif
    }
}

INLINE int64_t panels(int64_t out) { return (out + PANEL - 1) / PANEL; }

typedef struct { /* a piece of a product: one panel, and some tiles, with their rows */
    int64_t panel, tile, end, row, rows;
} Part;

INLINE int64_t parts_of(int64_t panels, int64_t rows) {
    return panels * ((tiles_of(rows) + TILES_AT_ONCE - 1) / TILES_AT_ONCE);
}

INLINE Part part_at(int64_t number, int64_t panels, int64_t rows) {
    int64_t tiles = tiles_of(rows), blocks = parts_of(panels, rows) / panels, block = number / panels;
    int64_t tile = tiles * block / blocks, end = tiles * (block + 1) / blocks;
    int64_t row = rows * tile / tiles;
    return (Part){number % panels, tile, end, row, rows * end / tiles - row};
}

/* ---- adapters --------------------------------------------------------------------------------- */

typedef struct { /* what adapters add to one product of one layer */
    const Decoder *decoder;
    const Step *step;
    int64_t layer, product;
} Additions;

INLINE const Delta *delta_of(const Additions *additions, int64_t row) {
    if (!additions || !additions->step->adapters) return 0;
    const AdapterLayer *layers = additions->step->adapters[row];
    if (!layers) return 0;
    const Delta *delta = &layers[additions->layer].of[additions->product];
    return delta->rank ? delta : 0;
}

/* A x of a row that goes into the product. */
static void shrink(const Additions *additions, const float *x, int64_t row) {
    const Delta *delta = delta_of(additions, row);
    if (!delta) return;
    float *low = additions->decoder->low + row * additions->decoder->most_rank;
    EACH(r, delta->rank) {
        const float *a = delta->a + r * delta->in;
        float lanes[PANEL] = {0}, sum = 0;
        int64_t k = 0;
        for (; k + PANEL <= delta->in; k += PANEL) EACH(c, PANEL) lanes[c] += a[k + c] * x[k + c];
        for (; k < delta->in; k++) sum += a[k] * x[k];
        EACH(c, PANEL) sum += lanes[c];
        low[r] = sum;
    }
}

/* B (A x), added to one panel of a tile's sums. */
static void expand(const Additions *additions, Tile tile, int64_t panel, float (*sums)[PANEL]) {
    if (!additions || !additions->step->adapters) return;
    EACH(r, tile.rows) {
        const int64_t row = tile.first + r;
        const Delta *delta = delta_of(additions, row);
        if (!delta) continue;
        const float *low = additions->decoder->low + row * additions->decoder->most_rank;
        const float *b = delta->b + panel * delta->rank * PANEL;
        EACH(v, VECTORS) {
            vec sum = load(sums[r] + v * LANES);
            EACH(k, delta->rank) sum += low[k] * load(b + k * PANEL + v * LANES);
            store(sums[r] + v * LANES, sum);
        }
    }
}

/* ---- products, shared by the threads ---------------------------------------------------------- */

enum { PUT, ADD };

/* Sums of one part, rows below each other. */
typedef float Block[TILES_AT_ONCE * TILE][PANEL];

/* out[row][feature] = (or +=) x W^T + b, and what adapters add (`additions` may be none) */
static void linear(Thread *thread, const Linear *w, const Inputs *x, int64_t rows, float *out,
                   int mode, const Additions *additions) {
    const int64_t count = panels(w->out);
    Phase phase = next_phase(thread, parts_of(count, rows));
    for (int64_t number; claim(&phase, &number);) {
        Part part = part_at(number, count, rows);
        Block sums;
        EACH(t, part.end - part.tile) {
            Tile tile = tile_at(part.tile + t, rows);
            product(tile, w, part.panel, x, sums + (tile.first - part.row));
            expand(additions, tile, part.panel, sums + (tile.first - part.row));
        }
        if (!may_commit(&phase, number)) continue;
        int64_t from = part.panel * PANEL, width = w->out - from < PANEL ? w->out - from : PANEL;
        EACH(r, part.rows) {
            float *to = out + (part.row + r) * w->out + from;
            if (mode == ADD)
                EACH(c, width) to[c] += sums[r][c];
            else
                EACH(c, width) to[c] = sums[r][c];
        }
        committed(&phase);
    }
}

/* out[row][feature] = silu(gate) * up; `out` is `inner` wide. */
static void gated(Thread *thread, const Linear *w, const Inputs *x, int64_t rows, float *out,
                  int64_t inner, const Additions *additions) {
    const int64_t count = panels(inner);
    Phase phase = next_phase(thread, parts_of(count, rows));
    for (int64_t number; claim(&phase, &number);) {
        Part part = part_at(number, count, rows);
        Block results;
        EACH(t, part.end - part.tile) {
            Tile tile = tile_at(part.tile + t, rows);
            float(*gate)[PANEL] = results + (tile.first - part.row);
            Sums up;
            product(tile, w, 2 * part.panel, x, gate);
            product(tile, w, 2 * part.panel + 1, x, up);
            expand(additions, tile, 2 * part.panel, gate);
            expand(additions, tile, 2 * part.panel + 1, up);
            EACH(r, tile.rows) EACH(v, VECTORS) {
                vec g = load(gate[r] + v * LANES), u = load(up[r] + v * LANES);
                store(gate[r] + v * LANES, g / (1.0f + exponential(-g)) * u);
            }
        }
        if (!may_commit(&phase, number)) continue;
        int64_t from = part.panel * PANEL, width = inner - from < PANEL ? inner - from : PANEL;
        EACH(r, part.rows)
            memcpy(out + (part.row + r) * inner + from, results[r], sizeof(float) * (size_t)width);
        committed(&phase);
    }
}

/* ---- rows ------------------------------------------------------------------------------------- */

/* RMSNorm of one row; sums run in PANEL lanes, so that the compiler may use vectors. */
static void normalise(const float *x, const float *weight, float epsilon, int64_t width, float *out) {
    float lanes[PANEL] = {0}, sum = 0;
    int64_t k = 0;
    for (; k + PANEL <= width; k += PANEL) EACH(c, PANEL) lanes[c] += x[k + c] * x[k + c];
    for (; k < width; k++) sum += x[k] * x[k];
    EACH(c, PANEL) sum += lanes[c];
    float factor = 1.0f / sqrtf(sum / (float)width + epsilon);
    EACH(i, width) out[i] = x[i] * factor * weight[i];
}

/* Codes, scale and start of one group. */
INLINE void quantise(const float *x, code *codes, float *scale, int32_t *start) {
    ivec sizes = {0}; /* as bits: NaN is larger than all, and must not vanish */
    UNROLL for (int64_t i = 0; i < GROUP; i += LANES) {
        ivec size = (ivec)load(x + i) & 0x7fffffff;
        sizes = greater(size, sizes);
    }
    union { int32_t i; float f; } most = {greatest_of(sizes)};
    float inverse = most.f > 0 ? 127.0f / most.f : 0;
    ivec total = {0};
    UNROLL for (int64_t i = 0; i < GROUP; i += LANES) {
        ivec rounded = nearest(load(x + i) * inverse);
        total += rounded;
        *(codes_vec *)(codes + i) = __builtin_convertvector(rounded, codes_vec);
    }
    *scale = most.f / 127.0f;
    *start = -128 * total_of(total);
}

/* Put one of `rows` rows into its tile, for a product with `w`. */
static void pack_row(const Linear *w, const Inputs *inputs, const float *x, int64_t width, int64_t row,
                     int64_t rows) {
    const int64_t groups = w->in / GROUP;
    const Tile tile = tile_with(row, rows);
    EACH(g, groups) {
        int64_t at = tile.first * groups + g * tile.rows + row - tile.first;
        const float *from = x + g * GROUP;
        float padded[GROUP] = {0};
        if (width - g * GROUP < GROUP)
            from = memcpy(padded, from, sizeof(float) * (size_t)(width - g * GROUP));
        if (w->kind == INT8)
            quantise(from, (code *)inputs->values + at * GROUP, inputs->scales + at,
                     inputs->starts + at);
        else
            memcpy((float *)inputs->values + at * GROUP, from, sizeof padded);
    }
}

/* x [rows][width], as inputs of a product with `w`. */
static void pack_rows(Thread *thread, const Linear *w, const Inputs *inputs, const float *x,
                      int64_t width, int64_t rows, const Additions *additions) {
    Phase phase = next_phase(thread, rows);
    for (int64_t row; claim(&phase, &row);) {
        if (!may_commit(&phase, row)) continue;
        pack_row(w, inputs, x + row * width, width, row, rows);
        shrink(additions, x + row * width, row);
        committed(&phase);
    }
}

/* The state, normalised, as inputs of a product with `w`. */
static void normalise_rows(Thread *thread, const Decoder *d, const float *weight, const Linear *w,
                           int64_t rows, const Additions *additions) {
    Phase phase = next_phase(thread, rows);
    for (int64_t row; claim(&phase, &row);) {
        if (!may_commit(&phase, row)) continue;
        float *normed = d->normed + row * d->hidden;
        normalise(d->state + row * d->hidden, weight, d->epsilon, d->hidden, normed);
        pack_row(w, &d->inputs, normed, d->hidden, row, rows);
        shrink(additions, normed, row);
        committed(&phase);
    }
}

/* ---- attention -------------------------------------------------------------------------------- */

static void rotate(const Decoder *d, const float *norm, int64_t position, float *head) {
    const int64_t half = d->head_dim / 2;
    const float *c = d->cos + position * half, *s = d->sin + position * half;
    if (norm) normalise(head, norm, d->epsilon, d->head_dim, head);
    EACH(i, half) {
        float a = head[i], b = head[i + half];
        head[i] = a * c[i] - b * s[i];
        head[i + half] = b * c[i] + a * s[i];
    }
}

/* Turn a row's queries and keys to their position, scale the queries, and put keys and values into
   the cache. */
static void place_row(const Decoder *d, const Layer *layer, const Step *step, int64_t row) {
    const int64_t dim = d->head_dim, width = (d->heads + 2 * d->kv_heads) * dim;
    const int64_t slot = step->slots[row], at = slot % BLOCK;
    EACH(head, d->heads + d->kv_heads) {
        const int is_query = head < d->heads;
        float *x = d->qkv + row * width + head * dim;
        rotate(d, is_query ? layer->q_norm : layer->k_norm, step->positions[row], x);
        if (is_query) {
            EACH(i, dim) x[i] *= d->scale;
            continue;
        }
        int64_t block = ((head - d->heads) * d->blocks + slot / BLOCK) * BLOCK * dim;
        const float *value = x + d->kv_heads * dim;
        EACH(i, dim) write(layer->keys, block + i * BLOCK + at, x[i], d->narrow);
        EACH(i, dim) write(layer->values, block + at * dim + i, value[i], d->narrow);
    }
}

static void place(Thread *thread, const Decoder *d, const Layer *layer, const Step *step) {
    Phase phase = next_phase(thread, step->rows);
    for (int64_t row; claim(&phase, &row);) {
        if (!may_commit(&phase, row)) continue;
        place_row(d, layer, step, row);
        committed(&phase);
    }
}

typedef struct {
    const float *query;             /* scaled, [head_dim] */
    float *out;                     /* [head_dim], not yet divided by `total` */
    int64_t from, to;               /* positions it sees: from <= p < to */
    float most, total;
    float scores[SPAN];
} Query;

typedef struct { /* where the keys and values of PANEL positions are, in numbers, and the next keys */
    int64_t at[PANEL / BLOCK], next[PANEL / BLOCK];
} Places;

INLINE void fetch(const void *from, int64_t at, const int narrow) {
    __builtin_prefetch((const char *)from + at * (narrow ? 2 : 4));
}

/* Scores of the PANEL positions from `from` on. The memory that will be wanted next is called for:
   it lies in blocks that are too small for the processor to guess the following one. */
INLINE void score(const int n, const int narrow, Query *q, const Layer *layer, const Places *places,
                  int64_t dim, int64_t from) {
    vec sums[QUERIES][VECTORS] = {0};
    EACH(k, dim) {
        vec key[VECTORS];
        UNROLL EACH(b, PANEL / BLOCK) if (!narrow || k % 2) {
            fetch(layer->values, places->at[b] + k * BLOCK, narrow);
            fetch(layer->keys, places->next[b] + k * BLOCK, narrow);
        }
        UNROLL EACH(v, VECTORS) {
            int64_t at = places->at[v * LANES / BLOCK] + k * BLOCK + v * LANES % BLOCK;
            key[v] = read(layer->keys, at, narrow);
        }
        UNROLL EACH(r, n) UNROLL EACH(v, VECTORS) sums[r][v] += q[r].query[k] * key[v];
    }
    UNROLL EACH(r, n) UNROLL EACH(v, VECTORS) store(q[r].scores + from + v * LANES, sums[r][v]);
}

/* Values of `count` positions from `from` on, weighed by their scores and added to `out`. */
INLINE void gather(const int n, const int narrow, Query *q, const void *values, int64_t at,
                   int64_t dim, int64_t from, int64_t count) {
    int64_t k = 0;
    for (; k + PANEL <= dim; k += PANEL) {
        vec sums[QUERIES][VECTORS];
        UNROLL EACH(r, n) UNROLL EACH(v, VECTORS) sums[r][v] = load(q[r].out + k + v * LANES);
        EACH(p, count) {
            vec value[VECTORS];
            UNROLL EACH(v, VECTORS) value[v] = read(values, at + p * dim + k + v * LANES, narrow);
            UNROLL EACH(r, n) UNROLL EACH(v, VECTORS) sums[r][v] += q[r].scores[from + p] * value[v];
        }
        UNROLL EACH(r, n) UNROLL EACH(v, VECTORS) store(q[r].out + k + v * LANES, sums[r][v]);
    }
    for (; k < dim; k++) EACH(p, count) {
        float value = narrow ? widen_one((const uint16_t *)values + at + p * dim + k)
                             : ((const float *)values)[at + p * dim + k];
        EACH(r, n) q[r].out[k] += q[r].scores[from + p] * value;
    }
}

#define BY_ROWS(call) \
    switch (n) { case 1: call(1); break; case 2: call(2); break; case 3: call(3); break; \
                 case 4: call(4); break; case 5: call(5); break; default: call(6); }

/* Softmax of the scores of positions [begin, begin + count), joined to what was seen before. */
static void weigh(Query *q, int64_t begin, int64_t count, int64_t dim) {
    if (begin >= q->to || begin + count <= q->from) { /* it sees nothing of them */
        memset(q->scores, 0, sizeof(float) * (size_t)count);
        return;
    }
    for (int64_t p = 0; p < q->from - begin; p++) q->scores[p] = -INFINITY;
    for (int64_t p = q->to - begin; p < SPAN; p++) q->scores[p] = -INFINITY;
    vec most = {0};
    most += q->most;
    for (int64_t p = 0; p < count; p += LANES) most = larger(load(q->scores + p), most);
    vec shift = {0};
    shift += largest_of(most);
    if (shift[0] != q->most) {
        vec old = {0};
        vec shrink = exponential(old + q->most - shift);
        float factor = q->most == -INFINITY ? 0 : shrink[0];
        EACH(i, dim) q->out[i] *= factor;
        q->total *= factor;
        q->most = shift[0];
    }
    vec sum = {0};
    for (int64_t p = 0; p < count; p += LANES) {
        vec x = load(q->scores + p);
        vec weight = where(x == -INFINITY, (vec){0}, exponential(x - shift));
        store(q->scores + p, weight);
        sum += weight;
    }
    q->total += sum_of(sum);
}

/* Where the block with a position lies in the layer's keys and values. Past the end: the last. */
INLINE int64_t block_at(const Decoder *d, const Step *step, const Piece *piece, int64_t kv,
                        int64_t position) {
    int64_t last = piece->position + piece->rows - 1, place = position < last ? position : last;
    return (kv * d->blocks + step->tables[piece->table + place / BLOCK]) * BLOCK * d->head_dim;
}

INLINE Places places_at(const Decoder *d, const Step *step, const Piece *piece, int64_t kv,
                        int64_t position) {
    Places places;
    EACH(b, PANEL / BLOCK) {
        places.at[b] = block_at(d, step, piece, kv, position + b * BLOCK);
        places.next[b] = block_at(d, step, piece, kv, position + PANEL + b * BLOCK);
    }
    return places;
}

/* out: [row of the piece][head of the group][head_dim] */
INLINE void attend_piece(const int narrow, const Decoder *d, const Layer *layer, const Step *step,
                         const Piece *piece, int64_t kv, float *out) {
    const int64_t dim = d->head_dim, group = d->heads / d->kv_heads, count = piece->rows * group;
    const int64_t width = (d->heads + 2 * d->kv_heads) * dim;
    const int64_t end = piece->position + piece->rows;
    Query q[MAX_QUERIES];
    int64_t from = end;
    EACH(i, count) {
        int64_t row = piece->row + i / group, head = kv * group + i % group;
        q[i].query = d->qkv + row * width + head * dim;
        q[i].out = out + i * dim;
        memset(q[i].out, 0, sizeof(float) * (size_t)dim);
        q[i].to = piece->position + i / group + 1;
        q[i].from = layer->window && q[i].to > layer->window ? q[i].to - layer->window : 0;
        q[i].most = -INFINITY;
        q[i].total = 0;
        from = q[i].from < from ? q[i].from : from;
    }
    for (int64_t begin = from / SPAN * SPAN; begin < end; begin += SPAN) {
        int64_t span = end - begin < SPAN ? end - begin : SPAN;
        for (int64_t i = 0; i < count; i += QUERIES) {
            int64_t n = count - i < QUERIES ? count - i : QUERIES;
            for (int64_t at = 0; at < span; at += PANEL) {
                Places places = places_at(d, step, piece, kv, begin + at);
#define SCORE(n) score(n, narrow, q + i, layer, &places, dim, at)
                BY_ROWS(SCORE)
            }
            EACH(r, n) weigh(q + i + r, begin, span, dim);
            for (int64_t at = 0; at < span; at += BLOCK) {
                int64_t block = block_at(d, step, piece, kv, begin + at);
                int64_t used = span - at < BLOCK ? span - at : BLOCK;
#define GATHER(n) gather(n, narrow, q + i, layer->values, block, dim, at, used)
                BY_ROWS(GATHER)
            }
        }
    }
    EACH(i, count) EACH(k, dim) q[i].out[k] /= q[i].total;
}

static void attend(Thread *thread, const Decoder *d, const Layer *layer, const Step *step) {
    const int64_t dim = d->head_dim, group = d->heads / d->kv_heads;
    Phase phase = next_phase(thread, step->pieces * d->kv_heads);
    for (int64_t task; claim(&phase, &task);) {
        const Piece *piece = step->piece + task / d->kv_heads;
        const int64_t kv = task % d->kv_heads;
        float out[MAX_QUERIES * dim];
        if (d->narrow)
            attend_piece(1, d, layer, step, piece, kv, out);
        else
            attend_piece(0, d, layer, step, piece, kv, out);
        if (!may_commit(&phase, task)) continue;
        EACH(r, piece->rows) {
            float *to = d->attended + ((piece->row + r) * d->heads + kv * group) * dim;
            memcpy(to, out + r * group * dim, sizeof(float) * (size_t)(group * dim));
        }
        committed(&phase);
    }
}

/* ---- the whole -------------------------------------------------------------------------------- */

static void embed(Thread *thread, const Decoder *d, const Step *step) {
    Phase phase = next_phase(thread, step->rows);
    for (int64_t row; claim(&phase, &row);) {
        if (!may_commit(&phase, row)) continue;
        memcpy(d->state + row * d->hidden, d->embedding + step->tokens[row] * d->hidden,
               sizeof(float) * (size_t)d->hidden);
        committed(&phase);
    }
}

static void run_layer(Thread *thread, const Decoder *d, const Layer *layer, const Step *step) {
    const int64_t rows = step->rows, number = layer - d->layers;
    Additions add[PRODUCTS];
    EACH(product, PRODUCTS) add[product] = (Additions){d, step, number, product};
    normalise_rows(thread, d, layer->attention_norm, &layer->qkv, rows, &add[QKV]);
    linear(thread, &layer->qkv, &d->inputs, rows, d->qkv, PUT, &add[QKV]);
    place(thread, d, layer, step);
    attend(thread, d, layer, step);
    pack_rows(thread, &layer->o, &d->inputs, d->attended, d->heads * d->head_dim, rows, &add[O]);
    linear(thread, &layer->o, &d->inputs, rows, d->state, ADD, &add[O]);
    normalise_rows(thread, d, layer->mlp_norm, &layer->gate_up, rows, &add[GATE_UP]);
    gated(thread, &layer->gate_up, &d->inputs, rows, d->activated, d->inner, &add[GATE_UP]);
    pack_rows(thread, &layer->down, &d->inputs, d->activated, d->inner, rows, &add[DOWN]);
    linear(thread, &layer->down, &d->inputs, rows, d->state, ADD, &add[DOWN]);
}

static void finish(Thread *thread, const Decoder *d, const Step *step) {
    Phase phase = next_phase(thread, step->rows);
    for (int64_t row; claim(&phase, &row);) {
        if (!may_commit(&phase, row)) continue;
        normalise(d->state + row * d->hidden, d->norm, d->epsilon, d->hidden,
                  step->out + row * d->hidden);
        committed(&phase);
    }
}

/* False: there is no memory for it. */
int decoder_forward(const Decoder *d, const Step *step) {
    int64_t most = step->rows > step->pieces * d->kv_heads ? step->rows : step->pieces * d->kv_heads;
    EACH(i, d->layer_count) {
        const Layer *layer = d->layers + i;
        const int64_t outs[] = {layer->qkv.out, layer->o.out, layer->gate_up.out, layer->down.out};
        EACH(j, 4) {
            int64_t parts = parts_of(panels(outs[j]), step->rows);
            most = parts > most ? parts : most;
        }
    }
    Team team;
    int enough = assemble(&team, d->threads, most);
    if (enough) {
#pragma omp parallel num_threads(d->threads)
        {
            Thread thread = {&team, omp_get_thread_num(), 0};
            embed(&thread, d, step);
            EACH(i, d->layer_count) run_layer(&thread, d, d->layers + i, step);
            finish(&thread, d, step);
        }
    }
    dismiss(&team);
    return enough;
}

/* out [rows][w->out] = x [rows][width] W^T + b, with `inputs` as scratch. False: no memory. */
int decoder_linear(const Linear *w, const float *x, int64_t rows, int64_t width, float *out,
                   int64_t threads, const Inputs *inputs) {
    int64_t parts = parts_of(panels(w->out), rows);
    Team team;
    int enough = assemble(&team, threads, parts > rows ? parts : rows);
    if (enough) {
#pragma omp parallel num_threads(threads)
        {
            Thread thread = {&team, omp_get_thread_num(), 0};
            pack_rows(&thread, w, inputs, x, width, rows, 0);
            linear(&thread, w, inputs, rows, out, PUT, 0);
        }
    }
    dismiss(&team);
    return enough;
}

/* ---- packing ---------------------------------------------------------------------------------- */

int64_t decoder_panel(void) { return PANEL; }

static uint16_t bfloat16_above(float x) { /* the smallest bfloat16 that is not below x >= 0 */
    union { float f; uint32_t i; } bits = {x};
    return (uint16_t)((bits.i + 0xffff) >> 16);
}

/* Pack `rows` output features, `from` [rows][width], as panels `first`, `first + stride`, ... */
void decoder_pack(const Linear *w, const float *from, int64_t rows, int64_t width, int64_t first,
                  int64_t stride) {
    const int64_t in = w->in;
#pragma omp parallel for
    for (int64_t p = 0; p < panels(rows); p++) {
        int64_t panel = first + p * stride;
        EACH(c, PANEL) {
            int64_t feature = p * PANEL + c;
            const float *x = from + feature * width;
            int exists = feature < rows;
            if (w->kind != INT8) {
                EACH(k, in) {
                    float value = exists && k < width ? x[k] : 0;
                    write((void *)w->weights, (panel * in + k) * PANEL + c, value,
                          w->kind == BFLOAT16);
                }
                continue;
            }
            for (int64_t k = 0; k < in; k += GROUP) {
                float values[GROUP] = {0}, most = 0;
                EACH(i, GROUP) {
                    if (exists && k + i < width) values[i] = x[k + i];
                    if (fabsf(values[i]) > most) most = fabsf(values[i]);
                }
                uint16_t scale = bfloat16_above(most / 127.0f);
                union { uint32_t i; float f; } wide = {(uint32_t)scale << 16};
                ((uint16_t *)w->scales)[(panel * (in / GROUP) + k / GROUP) * PANEL + c] = scale;
                EACH(i, GROUP) {
                    int rounded = wide.f > 0 ? (int)rintf(values[i] / wide.f) : 0;
                    int64_t at = (panel * in + (k + i) / STEP * STEP) * PANEL + c * STEP + (k + i) % STEP;
                    ((uint8_t *)w->weights)[at] = (uint8_t)(STEP == 4 ? rounded + 128 : rounded);
                }
            }
        }
    }
}
