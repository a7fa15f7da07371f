/* An adapter as a code plugin in C. The host builds the projector from the description, so the
 * plugin only carries the bytes of adapter.json and adapter.safetensors. `make` builds it. */
#include "arc_adapter.h"

/* The assembler reads the files: no tool is needed to turn them into arrays. */
#if defined(__APPLE__)
#define SECTION ".const_data"
#define SYMBOL(name) "_" #name
#else
#define SECTION ".section .rodata"
#define SYMBOL(name) #name
#endif
#define EMBED(name, file)                                                      \
  __asm__(SECTION "\n" SYMBOL(name) ":\n.incbin \"" file "\"\n"                \
          SYMBOL(name##_end) ":\n.byte 0\n.text\n");                           \
  extern const uint8_t name[] __attribute__((visibility("hidden")));           \
  extern const uint8_t name##_end[] __attribute__((visibility("hidden")))

EMBED(adapter_json, "adapter.json");
EMBED(adapter_weights, "adapter.safetensors");

static ArcBytes manifest(void) {
  return (ArcBytes){adapter_json, (size_t)(adapter_json_end - adapter_json)};
}

static ArcBytes weights(void) {
  return (ArcBytes){adapter_weights, (size_t)(adapter_weights_end - adapter_weights)};
}

static const ArcAdapter adapter = {
    .struct_size = sizeof(ArcAdapter),
    .abi_version = ARC_ABI_VERSION,
    .manifest = manifest,
    .weights = weights,
    .project = NULL,
};

const ArcAdapter *arc_adapter(void) { return &adapter; }
