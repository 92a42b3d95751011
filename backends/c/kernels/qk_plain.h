/* The kernels in plain C, for each variant once: QK_VARIANT is the prefix of its functions, QK_ATTR what they are compiled for.
 * A variant that has a function of its own defines QK_OWN_ and its name, and the function, before it includes this. */

#ifndef QK_OWN_PACK
/* w[n step_n + k step_k] into panels, zeros where n or k is beyond. */
QK_ATTR static void QK_FN(pack)(size_t n, size_t k, const int8_t *w, size_t step_n, size_t step_k, int8_t *panels)
{
    for (size_t first = 0, width; first < n; first += width) {
        width = 16 * qk_panel(n - first);
        const size_t columns = n - first < width ? n - first : width;
        for (size_t i = 0; i < k; i += 4, panels += 4 * width) {
            const int8_t *from = w + first * step_n + i * step_k;
            const size_t steps = k - i < 4 ? k - i : 4;
            if (columns < width || steps < 4) memset(panels, 0, 4 * width);
            if (steps == 4 && step_k == 1)
                for (size_t j = 0; j < columns; j++) memcpy(panels + 4 * j, from + j * step_n, 4);
            else if (steps == 4 && step_n == 1) {
                const int8_t *b = from + step_k, *c = b + step_k, *d = c + step_k;
                for (size_t j = 0; j < columns; j++) {
                    panels[4 * j] = from[j];
                    panels[4 * j + 1] = b[j];
                    panels[4 * j + 2] = c[j];
                    panels[4 * j + 3] = d[j];
                }
            } else
                for (size_t j = 0; j < columns; j++)
                    for (size_t q = 0; q < steps; q++) panels[4 * j + q] = from[j * step_n + q * step_k];
        }
    }
}
#endif

/* Codes in the type of the result, y[at ...]. */
QK_ATTR static inline void QK_FN(write)(void *y, size_t at, const int32_t *code, size_t n, qk_type type)
{
    if (type == QK_S16) {
        int16_t *to = (int16_t *)y + at;
        for (size_t j = 0; j < n; j++) to[j] = (int16_t)code[j];
    } else if (type == QK_S32)
        memcpy((int32_t *)y + at, code, 4 * n);
    else {
        uint8_t *to = (uint8_t *)y + at;
        for (size_t j = 0; j < n; j++) to[j] = (uint8_t)code[j];
    }
}

/* Up to 16 elements of `size` bytes. Copies of a length that the compiler does not know are calls, or worse. */
QK_ATTR static inline void QK_FN(sixteen)(void *to, const void *from, size_t count, size_t size)
{
    uint8_t *y = (uint8_t *)to;
    const uint8_t *x = (const uint8_t *)from;
    const size_t n = count * size;
    size_t at = 0;
    if (n == 64) {
        memcpy(y, x, 64);
        return;
    }
    if (n & 32) memcpy(y, x, 32), at += 32;
    if (n & 16) memcpy(y + at, x + at, 16), at += 16;
    if (n & 8) memcpy(y + at, x + at, 8), at += 8;
    if (n & 4) memcpy(y + at, x + at, 4), at += 4;
    if (n & 2) memcpy(y + at, x + at, 2), at += 2;
    if (n & 1) y[at] = x[at];
}

#ifndef QK_OWN_QUAD
/* Up to QK_CHUNK codes; loops that look up stand apart from those that compilers vectorize, and read what has long been
 * written: a vector of what has just been written one by one has to wait. */
QK_ATTR static void QK_FN(quad_codes)(const qk_quad *f, size_t n, const int16_t *x, int32_t *code)
{
    int32_t piece[QK_CHUNK], r[QK_CHUNK];
    uint64_t all[64], found[QK_CHUNK]; /* the three coefficients of a piece in one number, each as 16 bits of its own */
    const int32_t last = (int32_t)(((int64_t)f->pieces << f->segment) - 1), inside = (int32_t)((1U << f->segment) - 1);
    const int32_t centre = 1 << (f->segment - 1), unit = 1 << (16 - f->segment), half = (1 << f->guard) >> 1;
    for (size_t i = 0; i < 64; i++)
        all[i] = (uint64_t)(uint16_t)f->constant[i] | (uint64_t)(uint16_t)f->linear[i] << 16 | (uint64_t)(uint16_t)f->square[i] << 32;
    for (size_t i = 0; i < n; i++) {
        const int32_t c = x[i], position = f->form == 0 ? c - f->lowest : c < 0 ? -c : c;
        const int32_t at = position < last ? position : last;
        piece[i] = at >> f->segment;
        r[i] = ((at & inside) - centre) * unit;
    }
    for (size_t i = 0; i < n; i++) found[i] = all[piece[i]];
    for (size_t i = 0; i < n; i++) {
        const int32_t a = qk_signed16((int32_t)(found[i] >> 32)), b = qk_signed16((int32_t)(found[i] >> 16 & 0xFFFF));
        const int32_t slope = b + qk_floor_shift32(r[i] * a + (1 << 14), 15);
        piece[i] = qk_signed16((int32_t)(found[i] & 0xFFFF)) + qk_floor_shift32(r[i] * slope + (1 << 14), 15);
    }
    if (f->form == 1)
        for (size_t i = 0; i < n; i++) piece[i] = x[i] > 0 ? piece[i] : x[i] < 0 ? -piece[i] : 0;
    if (f->form == 2)
        for (size_t i = 0; i < n; i++) piece[i] = (x[i] > 0 ? x[i] : 0) - piece[i];
    for (size_t i = 0; i < n; i++)
        code[i] = qk_clip32(qk_floor_shift32(piece[i] + half, f->guard) + f->offset, f->lo, f->hi);
}

/* slope and piece are of 16 bits for every code: quad's `check` */
QK_ATTR static void QK_FN(quad)(const qk_quad *f, size_t rows, size_t n, const int16_t *x, size_t ldx, void *y, size_t ldy,
                                qk_type type)
{
    int32_t code[QK_CHUNK];
    for (size_t i = 0; i < rows; i++, x += ldx)
        for (size_t j = 0; j < n; j += QK_CHUNK) {
            const size_t left = n - j, most = QK_CHUNK, count = left < most ? left : most;
            QK_FN(quad_codes)(f, count, x + j, code);
            QK_FN(write)(y, i * ldy + j, code, count, type);
        }
}
#endif

#ifndef QK_OWN_TABLE
QK_ATTR static void QK_FN(table)(const uint8_t *table, size_t n, const uint8_t *x, uint8_t *y)
{
    for (size_t i = 0; i < n; i++) y[i] = table[x[i]];
}
#endif

#ifndef QK_OWN_STORE
/* clip(round(sum mult / 2^shift) + zero) of QK_LANES sums: 4 rows of 16 columns, for a loop of 16 is no loop to compilers. */
typedef struct {
    int32_t mult[QK_LANES], shift[QK_LANES]; /* where some shift is small */
    int32_t unit[QK_LANES], half[QK_LANES], down[QK_LANES];
} QK_FN(scales);

QK_ATTR static inline void QK_FN(scale)(const qk_layer *l, const QK_FN(scales) *by, int small, const int32_t *sums, int32_t *code)
{
    const int32_t zero = l->zero, lo = l->lo, hi = l->hi;
    if (small)
        for (size_t j = 0; j < QK_LANES; j++)
            code[j] = (int32_t)qk_clip(qk_half_up((int64_t)sums[j] * by->mult[j], by->shift[j]) + zero, lo, hi);
    else /* nested floors: the low half of the product only matters to its high half */
        for (size_t j = 0; j < QK_LANES; j++) {
            const int32_t high = (int32_t)qk_floor_shift((int64_t)(sums[j] * by->unit[j]) * by->mult[j], 32);
            code[j] = qk_clip32(qk_floor_shift32(high + by->half[j], by->down[j]) + zero, lo, hi);
        }
}

/* Columns first..first + n of a tile [rows][stride], rounded, clipped and written. */
QK_ATTR static void QK_FN(store)(const qk_layer *l, size_t first, size_t rows, size_t n, const int32_t *tile, size_t stride,
                                 void *y, size_t ldy, qk_type type)
{
    QK_FN(scales) by;
    const size_t size = qk_size(type);
    int32_t sums[QK_LANES] = {0}, code[QK_LANES];
    int16_t words[QK_LANES];
    uint8_t bytes[QK_LANES];
    for (size_t j = 0; j < n; j += 16) {
        const size_t at = first + j, count = n - j < 16 ? n - j : 16;
        int small = 0;
        for (size_t i = 0; i < 16; i++) {
            const size_t c = i < count ? at + i : at;
            /* the high half of a product is enough for shifts of 33 and more: up to there the sum is raised, if it has room */
            const int32_t s = l->shift[c], up = s < 33 ? 33 - s : 0;
            small |= up > 0 && up > qk_room(l, c);
            by.mult[i] = l->mult[c];
            by.shift[i] = s;
            by.unit[i] = i < count ? (int32_t)1 << (up < 30 ? up : 30) : 1; /* what stands beside the columns may be any sum */
            by.down[i] = s + up - 32;
            by.half[i] = qk_half(by.down[i]);
        }
        for (size_t i = 16; i < QK_LANES; i += 16) {
            memcpy(by.mult + i, by.mult, 64);
            memcpy(by.shift + i, by.shift, 64);
            memcpy(by.unit + i, by.unit, 64);
            memcpy(by.down + i, by.down, 64);
            memcpy(by.half + i, by.half, 64);
        }
        for (size_t i = 0; i < rows; i += 4) {
            const size_t left = rows - i, most = 4, taken = left < most ? left : most;
            for (size_t r = 0; r < taken; r++)
                QK_FN(sixteen)(sums + 16 * r, tile + (i + r) * stride + j, count, 4);
            QK_FN(scale)(l, &by, small, sums, code);
            if (type == QK_S16)
                QK_FN(write)(words, 0, code, QK_LANES, QK_S16);
            else if (type != QK_S32)
                QK_FN(write)(bytes, 0, code, QK_LANES, QK_U8);
            const uint8_t *from = type == QK_S16 ? (const uint8_t *)words : type == QK_S32 ? (const uint8_t *)code : bytes;
            for (size_t r = 0; r < taken; r++)
                QK_FN(sixteen)((uint8_t *)y + ((i + r) * ldy + j) * size, from + 16 * r * size, count, size);
        }
    }
}
#endif

/* A function of the codes of one tile, if there is one: of those in codes [rows][64], or in y. */
QK_ATTR static inline void QK_FN(follow)(const qk_layer *l, size_t rows, size_t n, uint8_t *y, size_t ldy, qk_type type,
                                         const int16_t *codes)
{
    if (l->quad != NULL)
        QK_FN(quad)(l->quad, rows, n, codes, QK_TILE_COLUMNS, y, ldy, type);
    else if (l->table != NULL)
        for (size_t i = 0; i < rows; i++) QK_FN(table)(l->table, n, y + i * ldy, y + i * ldy);
}

/* What follows the product, of one tile; codes: [rows][64] of scratch. */
QK_ATTR static void QK_FN(finish)(const qk_layer *l, size_t first, size_t rows, size_t n, const int32_t *tile, size_t stride,
                                  uint8_t *y, size_t ldy, qk_type type, int16_t *codes)
{
    if (type == QK_ACC) {
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < n; j += 16)
                QK_FN(sixteen)(y + 4 * (i * ldy + j), tile + i * stride + j, n - j < 16 ? n - j : 16, 4);
        return;
    }
    if (l->quad != NULL && n < QK_LANES / 2) { /* few columns: all rows as one, results in the place of codes */
        QK_FN(store)(l, first, rows, n, tile, stride, codes, n, QK_S16);
        QK_FN(quad)(l->quad, 1, rows * n, codes, 0, codes, 0, type);
        const size_t size = qk_size(type);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < n; j += 16)
                QK_FN(sixteen)(y + (i * ldy + j) * size, (const uint8_t *)codes + (i * n + j) * size, n - j < 16 ? n - j : 16, size);
        return;
    }
    if (l->quad != NULL)
        QK_FN(store)(l, first, rows, n, tile, stride, codes, QK_TILE_COLUMNS, QK_S16);
    else
        QK_FN(store)(l, first, rows, n, tile, stride, y, ldy, type);
    QK_FN(follow)(l, rows, n, y, ldy, type, codes);
}

#ifndef QK_OWN_UNPACK
/* Groups of 64 weights of 1..7 bits, as bytes. A group has its lowest 4 bits first, if bits & 4, then the next 2, if bits & 2,
 * and the highest, if bits & 1; of w bits, byte i has those of weight i + 8 w j at its bit w j. */
QK_ATTR QK_NOINLINE static void QK_FN(unpack)(const uint8_t *from, size_t groups, int32_t bits, int32_t sign, int8_t *to)
{
    const uint8_t pairs = (uint8_t)(bits & 4 ? 16 : 1), ones = (uint8_t)(pairs * (bits & 2 ? 4 : 1));
    const uint8_t top = (uint8_t)sign;
    for (; groups > 0; groups--, to += 64) {
        uint8_t code[64] = {0};
        if (bits & 4) {
            for (size_t i = 0; i < 32; i++) code[i] = from[i] & 15;
            for (size_t i = 0; i < 32; i++) code[32 + i] = from[i] >> 4;
            from += 32;
        }
        if (bits & 2) {
            for (size_t j = 0; j < 4; j++)
                for (size_t i = 0; i < 16; i++) code[16 * j + i] |= (uint8_t)((from[i] >> (2 * j) & 3) * pairs);
            from += 16;
        }
        if (bits & 1) {
            for (size_t j = 0; j < 8; j++)
                for (size_t i = 0; i < 8; i++) code[8 * j + i] |= (uint8_t)((from[i] >> j & 1) * ones);
            from += 8;
        }
        for (size_t i = 0; i < 64; i++) to[i] = (int8_t)((uint8_t)((code[i] ^ top) - top));
    }
}
#endif

/* The next panel, of `size` bytes when unpacked: where it lies, or unpacked at the end of the scratch. */
QK_ATTR static inline const int8_t *QK_FN(panel)(const qk_layer *l, const int8_t **next, size_t size, void *scratch)
{
    const int8_t *packed = *next;
    *next += size / 8 * (size_t)l->bits;
    if (l->bits == 8) return packed;
    int8_t *to = (int8_t *)scratch + qk_linear_scratch((size_t)l->k);
    QK_FN(unpack)((const uint8_t *)packed, size / 64, l->bits, l->sign, to);
    return to;
}

#ifdef QK_OWN_TILE
/* A variant's tile(panel, steps, blocks, bias, rows, x, ldx, sums, most) makes sums [rows][16 blocks] = bias + x w^T of a
 * panel; its most = tile_rows(m, blocks) says how many rows it takes at once. One with QK_OWN_CODES also has tile_codes, which
 * makes codes of `most` rows without storing the sums, where scales_of says that it can. */
QK_ATTR static void QK_FN(linear)(const qk_layer *l, size_t m, const uint8_t *x, size_t ldx, void *y, size_t ldy, qk_type type,
                                  void *scratch)
{
    const size_t n = (size_t)l->n, k = (size_t)l->k, steps = (k + 3) / 4, size = qk_size(type);
    int32_t *tile = (int32_t *)scratch;
    int16_t *codes = (int16_t *)(tile + QK_TILE_ROWS * QK_TILE_COLUMNS);
    uint8_t *padded = (uint8_t *)(codes + QK_TILE_ROWS * QK_TILE_COLUMNS);
    const int8_t *next = l->packed;
    for (size_t first = 0, width; first < n; first += width) {
        const size_t blocks = qk_panel(n - first), most = QK_FN(tile_rows)(m, blocks);
        width = 16 * blocks;
        const size_t columns = n - first < width ? n - first : width;
        const int8_t *panel = QK_FN(panel)(l, &next, 4 * steps * width, scratch), *coming = next;
        /* while this panel is used, the next one comes nearer: a part of it, of whole cache lines, with each tile */
        const size_t after = n - first > width ? 4 * steps * 2 * qk_panel(n - first - width) * (size_t)l->bits : 0;
        const size_t part = qk_up(after / (m / most + 1) + 1, 64);
#ifdef QK_OWN_CODES
        QK_FN(scales) by[4];
        const qk_type kind = l->quad ? QK_S16 : l->table == NULL || type == QK_ACC ? type : l->lo < 0 ? QK_S8 : QK_U8;
        const int direct = QK_FN(scales_of)(l, first, columns, kind, by);
#endif
        for (size_t i = 0; i < m; i += most) {
            for (size_t p = 0; p < part && coming < next + after; p += 64, coming += 64) QK_PREFETCH(coming);
            if (m - i < most && m >= most) i = m - most; /* the last tile: some rows a second time */
            const size_t rows = m < most ? m : most;
            const uint8_t *from = x + i * ldx;
            size_t ld = ldx;
            if (k % 4) {
                ld = 4 * steps;
                for (size_t r = 0; r < rows; r++) {
                    memcpy(padded + r * ld, from + r * ldx, k);
                    memset(padded + r * ld + k, 0, ld - k);
                }
                from = padded;
            }
            uint8_t *const to = (uint8_t *)y + (i * ldy + first) * size;
#ifdef QK_OWN_CODES
            if (direct && rows == most) {
                void *const place = l->quad ? (void *)codes : to;
                const size_t wide = QK_TILE_COLUMNS;
                QK_FN(tile_codes)(panel, steps, blocks, l->bias + first, from, ld, most, by, place, l->quad ? wide : ldy, kind);
                QK_FN(follow)(l, rows, columns, to, ldy, type, codes);
                continue;
            }
#endif
            QK_FN(tile)(panel, steps, blocks, l->bias + first, rows, from, ld, tile, most);
            QK_FN(finish)(l, first, rows, columns, tile, width, to, ldy, type, codes);
        }
    }
}
#else
#define QK_DOTS(i) int32_t s##i##0 = 0, s##i##1 = 0, s##i##2 = 0, s##i##3 = 0;
#define QK_ADD(c)                                                                                                             \
    s0##c += x0[j] * w##c[j];                                                                                                  \
    s1##c += x1[j] * w##c[j];                                                                                                  \
    s2##c += x2[j] * w##c[j];                                                                                                  \
    s3##c += x3[j] * w##c[j];
#define QK_OUT(i)                                                                                                             \
    sums[16 * i] = bias[0] + s##i##0;                                                                                          \
    sums[16 * i + 1] = bias[1] + s##i##1;                                                                                      \
    sums[16 * i + 2] = bias[2] + s##i##2;                                                                                      \
    sums[16 * i + 3] = bias[3] + s##i##3;

/* 4 rows times 4 columns, sums [4][16]: dot products along k, which compilers vectorize; of whole vectors, so that they
 * have no rest to see to. */
QK_ATTR QK_NOINLINE static void QK_FN(dots)(size_t vectors, const int8_t *w, const int32_t *bias, size_t rows, const uint8_t *x,
                                            size_t ldx, int32_t *sums)
{
    const size_t k = vectors * QK_VECTOR;
    const uint8_t *x0 = x, *x1 = rows > 1 ? x0 + ldx : x0, *x2 = rows > 2 ? x1 + ldx : x0, *x3 = rows > 3 ? x2 + ldx : x0;
    const int8_t *w0 = w, *w1 = w0 + k, *w2 = w1 + k, *w3 = w2 + k;
    QK_DOTS(0) QK_DOTS(1) QK_DOTS(2) QK_DOTS(3)
    for (size_t j = 0; j < k; j++) {
        QK_ADD(0) QK_ADD(1) QK_ADD(2) QK_ADD(3)
    }
    QK_OUT(0) QK_OUT(1) QK_OUT(2) QK_OUT(3)
}
#undef QK_DOTS
#undef QK_ADD
#undef QK_OUT

QK_ATTR static void QK_FN(linear)(const qk_layer *l, size_t m, const uint8_t *x, size_t ldx, void *y, size_t ldy, qk_type type,
                                  void *scratch)
{
    const size_t n = (size_t)l->n, k = (size_t)l->k, steps = (k + 3) / 4, size = qk_size(type);
    const size_t vectors = qk_up(k, QK_VECTOR) / QK_VECTOR, whole = vectors * QK_VECTOR;
    int32_t *tile = (int32_t *)scratch;
    int16_t *codes = (int16_t *)(tile + QK_TILE_ROWS * QK_TILE_COLUMNS);
    int8_t *columns = (int8_t *)(codes + QK_TILE_ROWS * QK_TILE_COLUMNS);
    uint8_t *padded = (uint8_t *)(columns + 16 * whole);
    const int8_t *next = l->packed;
    for (size_t first = 0, width; first < n; first += width) {
        width = 16 * qk_panel(n - first);
        const int8_t *panel = QK_FN(panel)(l, &next, 4 * steps * width, scratch);
        for (size_t block = 0; block < width && first + block < n; block += 16) {
            const size_t at = first + block, count = n - at < 16 ? n - at : 16;
            for (size_t i = 0; i < steps; i++) { /* 16 columns out of the panel, for all rows */
                if (i + 16 < steps) QK_PREFETCH(panel + ((i + 16) * width + block) * 4);
                for (size_t j = 0; j < 16; j++) memcpy(columns + j * whole + 4 * i, panel + (i * width + block + j) * 4, 4);
            }
            for (size_t j = 0; j < 16 && k < whole; j++) memset(columns + j * whole + k, 0, whole - k); /* whatever x has there */
            for (size_t i = 0; i < m; i += QK_TALL) {
                const size_t left = m - i, most = QK_TALL, rows = left < most ? left : most;
                for (size_t r = 0; r < rows; r += 4) {
                    const uint8_t *from = x + (i + r) * ldx;
                    const size_t four = rows - r < 4 ? rows - r : 4;
                    size_t ld = ldx;
                    if ((four - 1) * ldx + whole > (left - r - 1) * ldx + k) { /* beyond the end of x */
                        ld = whole;
                        memset(padded, 0, four * whole);
                        for (size_t q = 0; q < four; q++) memcpy(padded + q * ld, from + q * ldx, k);
                        from = padded;
                    }
                    for (size_t j = 0; j < 16; j += 4)
                        QK_FN(dots)(vectors, columns + j * whole, l->bias + at + j, four, from, ld, tile + 16 * r + j);
                }
                QK_FN(finish)(l, at, rows, count, tile, 16, (uint8_t *)y + (i * ldy + at) * size, ldy, type, codes);
            }
        }
    }
}
#endif

#ifndef QK_OWN_SOFTMAX
/* y[i] = weights[min(max x - x[i], 255)], and their sum; x of int16 */
QK_ATTR static void QK_FN(softmax)(const uint8_t *weights, size_t rows, size_t n, const int16_t *x, size_t ldx, uint8_t *y,
                                   size_t ldy, int32_t *sums)
{
    /* of all rows before the next step: see quad_codes */
    for (size_t i = 0; i < rows; i++) {
        const int16_t *from = x + i * ldx;
        uint8_t *to = y + i * ldy;
        int16_t top = from[0];
        for (size_t j = 1; j < n; j++) top = from[j] > top ? from[j] : top;
        for (size_t j = 0; j < n; j++) {
            const int32_t d = top - from[j];
            to[j] = (uint8_t)(d < 255 ? d : 255);
        }
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++) y[i * ldy + j] = weights[y[i * ldy + j]];
    for (size_t i = 0; i < rows; i++) {
        int32_t sum = 0;
        for (size_t j = 0; j < n; j++) sum += y[i * ldy + j];
        sums[i] = sum == 0 ? 255 : sum;
    }
}
#endif

#ifndef QK_OWN_DIVIDE
/* y = clip(round(acc mult / 2^shift / divisor) + zero), a divisor a row: one division, of the multiplier. */
QK_ATTR static void QK_FN(divide)(int32_t mult, int32_t shift, int32_t zero, int32_t lo, int32_t hi, size_t rows, size_t n,
                                  const int32_t *acc, size_t ldacc, const int32_t *divisors, uint8_t *y, size_t ldy)
{
    for (size_t i = 0; i < rows; i++, acc += ldacc, y += ldy) {
        int32_t more;
        const int64_t r = qk_over(mult, divisors[i], &more);
        const int32_t s = shift + more;
        if (s >= 33 && s <= 62) { /* nested floors: the high half of the product is enough */
            const int32_t by = (int32_t)r, down = s - 32, half = qk_half(down);
            for (size_t j = 0; j < n; j++) {
                const int32_t high = (int32_t)qk_floor_shift((int64_t)acc[j] * by, 32);
                y[j] = (uint8_t)qk_clip32(qk_floor_shift32(high + half, down) + zero, lo, hi);
            }
            continue;
        }
        /* |acc r| < 2^62: by 2^63 and more all of it rounds to 0, but -2^62 / 2^63 = -1/2 rounds up to 0 too */
        for (size_t j = 0; j < n; j++)
            y[j] = (uint8_t)qk_clip((s > 62 ? 0 : qk_half_up(acc[j] * r, s)) + zero, lo, hi);
    }
}
#endif

#ifndef QK_OWN_LN
QK_ATTR static void QK_FN(ln)(const qk_ln *f, size_t rows, const int16_t *x, size_t ldx, void *y, size_t ldy, qk_type type)
{
    for (size_t i = 0; i < rows; i++, x += ldx) {
        int64_t sum = 0, squares = 0, root;
        int32_t shift;
        for (size_t j = 0; j < (size_t)f->channels; j++) {
            sum += x[j];
            squares += (int32_t)x[j] * x[j];
        }
        qk_ln_root(f, sum, squares, &root, &shift);
        /* 32-bit factors, whose products compilers have an instruction for */
        const int32_t total = (int32_t)sum, by = (int32_t)root, channels = f->channels, half = 1 << (f->guard - 1);
        int32_t code[QK_LANES];
        for (size_t at = 0; at < (size_t)channels; at += QK_LANES) {
            const size_t left = (size_t)channels - at, most = QK_LANES, count = left < most ? left : most;
            const int32_t *gain = f->gain + at, *offset = f->offset + at;
            for (size_t j = 0; j < count; j++) {
                const int32_t u = (int32_t)qk_floor_shift((int64_t)(channels * x[at + j] - total) * by, shift);
                const int32_t v = (int32_t)qk_floor_shift((int64_t)u * gain[j], 32) + offset[j];
                code[j] = qk_clip32(qk_floor_shift32(v + half, f->guard), f->lo, f->hi);
            }
            QK_FN(write)(y, i * ldy + at, code, count, type);
        }
    }
}
#endif

#ifndef QK_OWN_ADD
QK_ATTR static void QK_FN(add)(const qk_add *f, size_t n, const int16_t *a, const int16_t *b, int16_t *y)
{
    for (size_t i = 0; i < n; i++) {
        const int64_t total = (int64_t)(a[i] - f->zero_a) * f->mult_a + (int64_t)(b[i] - f->zero_b) * f->mult_b;
        y[i] = (int16_t)qk_clip(qk_half_up(total, f->shift) + f->zero, f->lo, f->hi);
    }
}
#endif

#ifndef QK_OWN_BIAS
/* -128 sum_k w[n][k], of panels with k a multiple of 4; n rounded up to 16 elements. */
QK_ATTR static void QK_FN(bias)(size_t n, size_t k, const int8_t *panels, int32_t *bias)
{
    for (size_t first = 0, width; first < n; first += width) {
        width = 16 * qk_panel(n - first);
        memset(bias + first, 0, 4 * width);
        for (size_t i = 0; i < k; i += 4)
            for (size_t j = 0; j < width; j++, panels += 4)
                bias[first + j] -= 128 * (panels[0] + panels[1] + panels[2] + panels[3]);
    }
}
#endif

/* Space for n bytes, taken off the front. */
QK_ATTR static inline void *QK_FN(take)(uint8_t **from, size_t n)
{
    void *found = *from;
    *from += qk_up(n, 64);
    return found;
}

QK_ATTR static void QK_FN(attention)(const qk_attention *a, const int8_t *q, size_t ldq, const int8_t *k, size_t ldk,
                                     const int8_t *v, size_t ldv, uint8_t *y, size_t ldy, void *scratch)
{
    const size_t columns = qk_up(a->keys, 64), held = a->depth, depth = qk_up(held, 4), keys = qk_up(a->keys, 4);
    const size_t outputs = qk_up(a->width, 64), block = qk_block(a->keys);
    uint8_t *at = (uint8_t *)scratch;
    void *work = QK_FN(take)(&at, qk_linear_scratch(columns > depth ? columns : depth));
    int8_t *k_panels = (int8_t *)QK_FN(take)(&at, columns * depth), *v_panels = (int8_t *)QK_FN(take)(&at, outputs * columns);
    int32_t *bias = (int32_t *)QK_FN(take)(&at, 4 * columns), *mult = (int32_t *)QK_FN(take)(&at, 4 * columns);
    int32_t *shift = (int32_t *)QK_FN(take)(&at, 4 * columns), *none = (int32_t *)QK_FN(take)(&at, 4 * outputs);
    uint8_t *q_rows = (uint8_t *)QK_FN(take)(&at, block * depth);
    int16_t *scores = (int16_t *)QK_FN(take)(&at, 2 * block * columns);
    uint8_t *weights = (uint8_t *)QK_FN(take)(&at, block * columns);
    int32_t *sums = (int32_t *)QK_FN(take)(&at, 4 * block), *acc = (int32_t *)QK_FN(take)(&at, 4 * block * outputs);

    QK_FN(pack)(a->keys, a->depth, k, ldk, 1, k_panels);
    QK_FN(pack)(a->width, a->keys, v, 1, ldv, v_panels);
    memset(none, 0, 4 * outputs);
    memset(weights, 0, block * columns); /* those beyond the keys stay so */
    QK_FN(bias)(a->keys, depth, k_panels, bias); /* rows of q become unsigned by 128 more */
    for (size_t j = 0; j < columns; j++) {
        mult[j] = a->score_mult;
        shift[j] = a->score_shift;
    }
    const qk_layer qk = {(int32_t)a->keys, (int32_t)depth, k_panels,     bias, mult, shift,
                         a->score_zero,    a->score_lo,    a->score_hi, NULL, NULL, 8, 0};
    const qk_layer pv = {(int32_t)a->width, (int32_t)keys, v_panels, none, NULL, NULL, 0, 0, 0, NULL, NULL, 8, 0};
    for (size_t i = 0; i < a->tokens; i += block) {
        const size_t left = a->tokens - i, most = block, rows = left < most ? left : most;
        for (size_t r = 0; r < rows; r++) {
            const int8_t *from = q + (i + r) * ldq;
            uint8_t *to = q_rows + r * depth;
            for (size_t d = 0; d < held; d++) to[d] = (uint8_t)(from[d] + 128);
            for (size_t d = held; d < depth; d++) to[d] = 0;
        }
        QK_FN(linear)(&qk, rows, q_rows, depth, scores, columns, QK_S16, work);
        QK_FN(softmax)(a->weights, rows, a->keys, scores, columns, weights, columns, sums);
        QK_FN(linear)(&pv, rows, weights, columns, acc, outputs, QK_ACC, work);
        QK_FN(divide)(a->mult, a->shift, a->zero, a->lo, a->hi, rows, a->width, acc, outputs, sums, y + i * ldy, ldy);
    }
}

static const qk_kernels QK_FN(kernels) = {
    QK_NAME,      QK_FN(linear), QK_FN(attention), QK_FN(softmax), QK_FN(divide), QK_FN(quad),
    QK_FN(table), QK_FN(ln),     QK_FN(add),       QK_FN(pack),
};
