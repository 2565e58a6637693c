{
  # The shipped build: the core as a static library, and the addon that binds it.
  # Both source lists come from native/sources.json, which CMakeLists.txt reads too.
  "target_defaults": {
    "include_dirs": ["native"],
    "cflags": ["-fvisibility=hidden", "-fstack-protector-strong"],
    "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
    # GCC 12 sees uninitialized values in std::expected that are not there.
    "cflags_cc": ["-std=c++23", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wno-maybe-uninitialized"],
    "configurations": { "Release": { "defines": ["NDEBUG", "_FORTIFY_SOURCE=2"] } }
  },
  "targets": [
    {
      "target_name": "vmfork_core",
      "type": "static_library",
      "sources": ["<!@(node scripts/list-sources.mjs core)"],
      "cflags": ["-fPIC"],
      # For operator new: native/base/out_of_memory.h.
      "cflags_cc!": ["-fno-exceptions"],
      "cflags_cc": ["-fexceptions"]
    },
    {
      "target_name": "vmfork",
      "sources": ["<!@(node scripts/list-sources.mjs binding)"],
      "dependencies": [
        "vmfork_core",
        "<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except"
      ],
      "defines": [
        "NAPI_VERSION=8",
        # An environment that ends (worker.terminate()) refuses exceptions; that is no reason to abort.
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
        "VMFORK_VERSION=\"<!(node -p \"require('./package.json').version\")\""
      ],
      "ldflags": ["-Wl,-z,relro,-z,now"]
    }
  ]
}
