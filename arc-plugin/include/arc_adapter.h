/* The ABI of arc-encoder adapter plugins; ABI.md beside this folder has the rules.
 * Generated from src/abi.rs by cbindgen: change that file, not this one. */

#ifndef ARC_ADAPTER_H
#define ARC_ADAPTER_H

#include <stddef.h>
#include <stdint.h>

struct ArcAdapter;

#ifdef __cplusplus
extern "C" {
#endif

/* The one symbol of a plugin. */
const struct ArcAdapter *arc_adapter(void);

#ifdef __cplusplus
}
#endif

/**
 * The major version: hosts and plugins of different majors do not work together.
 */
#define ARC_ABI_MAJOR 1

/**
 * The minor version of this file. Minor 1 added `project`.
 */
#define ARC_ABI_MINOR 1

/**
 * `abi_version` of a plugin built against this file: the major in the upper 16 bits, the minor in
 * the lower.
 */
#define ARC_ABI_VERSION ((ARC_ABI_MAJOR << 16) | ARC_ABI_MINOR)

/**
 * `project`: the rows do not have the width that the plugin expects.
 */
#define ARC_ERROR_SHAPE -1

/**
 * `project`: the output does not fit into `capacity` floats.
 */
#define ARC_ERROR_CAPACITY -2

/**
 * `project`: the plugin's code panicked and the panic was caught inside the plugin.
 */
#define ARC_ERROR_PANIC -3

/**
 * `project`: any other failure.
 */
#define ARC_ERROR_OTHER -4

/**
 * Bytes that the plugin owns. They stay valid and unchanged as long as the process lives.
 */
typedef struct ArcBytes {
  /**
   * The first byte; null when there is nothing to give.
   */
  const uint8_t *data;
  /**
   * How many bytes there are.
   */
  size_t len;
} ArcBytes;

/**
 * What a plugin is. The symbol `arc_adapter` gives a pointer to one that lives as long as the
 * process.
 */
typedef struct ArcAdapter {
  /**
   * `sizeof(ArcAdapter)` as the plugin was compiled.
   */
  uint32_t struct_size;
  /**
   * `ARC_ABI_VERSION` as the plugin was compiled.
   */
  uint32_t abi_version;
  /**
   * Gives the content of `adapter.json`, UTF-8, without a terminating zero. It may be called
   * more than once, from any thread, and gives the same bytes each time.
   */
  struct ArcBytes (*manifest)(void);
  /**
   * Gives the content of the weights file, whose sha256 is in the manifest, by the same rules.
   */
  struct ArcBytes (*weights)(void);
  /**
   * Since minor 1. Null unless the manifest's projector is `custom`.
   *
   * Projects `n` rows of `d_in` floats at `x`, contiguous in row-major order, to `n` rows of the
   * decoder's width at `y`, which has room for `capacity` floats that the host has set to NaN.
   * `x` and `y` do not overlap and are valid only during the call. It may be called from several
   * threads at once. It gives the number of floats written, or a negative `ARC_ERROR_…`.
   */
  int64_t (*project)(const float *x, size_t n, size_t d_in, float *y, size_t capacity);
} ArcAdapter;

#endif  /* ARC_ADAPTER_H */
