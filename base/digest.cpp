#include "base/digest.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <new>

namespace trestle {

std::string digest_128(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::uint64_t digest_64(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

Digest64::Digest64() : state_(XXH3_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(state_);
}

Digest64::~Digest64() { XXH3_freeState(state_); }

void Digest64::add(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_, bytes.data(), bytes.size());
}

std::uint64_t Digest64::take() {
  const std::uint64_t digest = XXH3_64bits_digest(state_);
  XXH3_64bits_reset(state_);
  return digest;
}

}  // namespace trestle
