/* A plugin that is right, or wrong in the one way that VARIANT names. `data.h` is made by the test
 * and has the manifest and the weights as arrays. */
#include "arc_adapter.h"
#include "data.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define RIGHT 0
#define WRONG_MAJOR 1
#define SHORT_STRUCT 2
#define NO_SYMBOL 3
#define NULL_ADAPTER 4
#define NULL_MANIFEST 5
#define NULL_MANIFEST_FUNCTION 6
#define MALFORMED_JSON 7
#define HUGE_MANIFEST 8
#define OLD_MINOR 9
#define NEW_MINOR 10
#define LYING_SIZE 11
#define OVERRUN 12
#define NOT_A_NUMBER 13
#define WRITES_TOO_LITTLE 14
#define CRASH 15
#define HANG 16
#define FAILS 17
#define NO_PROJECT 18
#define PRINTS 19
#define MARKER 20
#define NULL_WEIGHTS 21
#define NULL_WEIGHTS_FUNCTION 22
#define FORKS 23
#define FORKS_AND_HANGS 24

#define D_IN 8
#define D_OUT 12

#if VARIANT == MARKER
/* Runs when the library is loaded, before anyone asks for anything. */
__attribute__((constructor)) static void mark(void) {
  FILE *file = fopen(MARKER_PATH, "w");
  if (file) fclose(file);
}
#endif

static ArcBytes manifest(void) {
#if VARIANT == NULL_MANIFEST
  return (ArcBytes){NULL, 0};
#elif VARIANT == MALFORMED_JSON
  return (ArcBytes){(const uint8_t *)"{\"schema\": 1, ", 14};
#elif VARIANT == HUGE_MANIFEST
  return (ArcBytes){MANIFEST, SIZE_MAX};
#else
  return (ArcBytes){MANIFEST, sizeof MANIFEST};
#endif
}

static ArcBytes weights(void) {
#if VARIANT == NULL_WEIGHTS
  return (ArcBytes){NULL, sizeof WEIGHTS};
#else
  return (ArcBytes){WEIGHTS, sizeof WEIGHTS};
#endif
}

static int64_t project(const float *x, size_t n, size_t d_in, float *y, size_t capacity) {
  if (d_in != D_IN) return ARC_ERROR_SHAPE;
  if (capacity < n * D_OUT) return ARC_ERROR_CAPACITY;
#if VARIANT == FAILS
  return ARC_ERROR_OTHER;
#elif VARIANT == CRASH
  abort();
#elif VARIANT == HANG
  for (;;) sleep(1);
#elif VARIANT == FORKS || VARIANT == FORKS_AND_HANGS
  /* The child writes its number, which is there whole or not at all, and outlives whoever lets it. */
  if (fork() == 0) {
    FILE *file = fopen(MARKER_PATH ".new", "w");
    if (file) {
      fprintf(file, "%d", (int)getpid());
      fclose(file);
      rename(MARKER_PATH ".new", MARKER_PATH);
    }
    for (;;) sleep(1);
  }
  while (access(MARKER_PATH, F_OK) != 0) usleep(1000);
#if VARIANT == FORKS_AND_HANGS
  for (;;) sleep(1);
#endif
#elif VARIANT == PRINTS
  printf("what a plugin prints does not disturb the host\n");
  fflush(stdout);
#endif
  for (size_t i = 0; i < n; i++) {
    float sum = 0;
    for (size_t j = 0; j < D_IN; j++) sum += x[i * D_IN + j];
    for (size_t j = 0; j < D_OUT; j++) y[i * D_OUT + j] = sum;
  }
  int64_t written = (int64_t)(n * D_OUT);
#if VARIANT == LYING_SIZE
  return written + 1;
#elif VARIANT == OVERRUN
  y[n * D_OUT] = 0;
#elif VARIANT == NOT_A_NUMBER
  y[1] = NAN;
#elif VARIANT == WRITES_TOO_LITTLE
  y[0] = NAN; /* as the host left it */
#endif
  return written;
}

/* The struct as it was at minor 0. */
typedef struct {
  uint32_t struct_size;
  uint32_t abi_version;
  ArcBytes (*manifest)(void);
  ArcBytes (*weights)(void);
} Minor0;

#if VARIANT == NO_SYMBOL
const int another_symbol = 1;
#elif VARIANT == NULL_ADAPTER
const ArcAdapter *arc_adapter(void) { return NULL; }
#elif VARIANT == OLD_MINOR
static const Minor0 adapter = {sizeof(Minor0), 1u << 16, manifest, weights};
const ArcAdapter *arc_adapter(void) { return (const ArcAdapter *)&adapter; }
#elif VARIANT == NEW_MINOR
static const struct {
  ArcAdapter known;
  void *added_later;
} adapter = {{sizeof adapter, (1u << 16) | 7, manifest, weights, project}, NULL};
const ArcAdapter *arc_adapter(void) { return &adapter.known; }
#else
static const ArcAdapter adapter = {
#if VARIANT == SHORT_STRUCT
    16,
#else
    sizeof(ArcAdapter),
#endif
#if VARIANT == WRONG_MAJOR
    2u << 16,
#else
    ARC_ABI_VERSION,
#endif
#if VARIANT == NULL_MANIFEST_FUNCTION
    NULL,
#else
    manifest,
#endif
#if VARIANT == NULL_WEIGHTS_FUNCTION
    NULL,
#else
    weights,
#endif
#if VARIANT == NO_PROJECT
    NULL,
#else
    project,
#endif
};
const ArcAdapter *arc_adapter(void) { return &adapter; }
#endif
