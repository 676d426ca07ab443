// XXH3 digests of bytes, which tell damage from none (they are no signatures). LOCAL. THREADS: any.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

struct XXH3_state_s;  // xxhash.h

namespace trestle {

/// 32 hexadecimal digits: XXH3, 128 bit, as xxhsum prints it.
std::string digest_128(std::string_view bytes);

/// XXH3, 64 bit.
std::uint64_t digest_64(std::span<const std::byte> bytes);

/// The same of bytes that come one after the other, while each part is still in the cache.
class Digest64 {
 public:
  Digest64();
  ~Digest64();
  Digest64(const Digest64&) = delete;
  Digest64& operator=(const Digest64&) = delete;

  void add(std::span<const std::byte> bytes);
  /// Of what was added since the last call; then it begins anew.
  std::uint64_t take();

 private:
  ::XXH3_state_s* state_;
};

}  // namespace trestle
