// Strong types for the numbers that are easily confused. LOCAL, plain values.
#pragma once
#include <compare>
#include <cstdint>
#include <string_view>

namespace trestle {

/// Counts optimizer steps from 0; step n has been done when the run's counter says n + 1.
struct Step {
  std::int64_t value = 0;
  auto operator<=>(const Step&) const = default;
};

/// Ordinal of a sample in a run: step * global_batch + its place in the global batch. Two uses of
/// one picture have two positions.
struct Position {
  std::int64_t value = 0;
  auto operator<=>(const Position&) const = default;
};

/// What a random draw is for ("bridge.noise"). Two purposes never share bits.
struct Purpose {
  constexpr explicit Purpose(std::string_view name) : id(hash(name)) {}
  std::uint32_t id;

  /// One of a numbered family, such as the noise of sampling step `index`.
  constexpr Purpose at(std::uint32_t index) const {
    Purpose other = *this;
    for (int byte = 0; byte < 4; ++byte) {
      other.id = (other.id ^ ((index >> (8 * byte)) & 0xFFu)) * 0x01000193u;
    }
    return other;
  }

 private:
  // FNV-1a, 32 bit: only has to keep a few dozen names apart.
  static constexpr std::uint32_t hash(std::string_view name) {
    std::uint32_t state = 0x811C9DC5u;
    for (const char c : name) state = (state ^ static_cast<unsigned char>(c)) * 0x01000193u;
    return state;
  }
};

}  // namespace trestle
