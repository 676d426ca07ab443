// XXH3 digests of bytes, which tell damage from none (they are no signatures). LOCAL. THREADS: any.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace trestle {

/// 32 hexadecimal digits: XXH3, 128 bit, as xxhsum prints it.
std::string digest_128(std::string_view bytes);

/// XXH3, 64 bit.
std::uint64_t digest_64(std::span<const std::byte> bytes);

}  // namespace trestle
