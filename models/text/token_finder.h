// Finds fixed texts (added tokens) in a prompt: from left to right, at each place the longest.
// LOCAL. THREADS: any, once all are added.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string_view>
#include <unordered_map>

namespace trestle::models::text {

class TokenFinder {
 public:
  TokenFinder() { first_.fill(-1); }

  void add(std::string_view content, std::int64_t id);

  /// Visits the whole text in order: what lies between tokens (not empty), and tokens by their id.
  void split(std::string_view text, const std::function<void(std::string_view)>& between,
             const std::function<void(std::int64_t)>& token) const;

 private:
  struct Match {
    std::size_t bytes = 0;
    std::int64_t id = -1;
  };
  Match longest_at(std::string_view text) const;
  std::int64_t child(std::int64_t node, unsigned char byte) const;

  // A tree of bytes. Nearly every place of a text ends at its root, which is a table therefore.
  std::array<std::int64_t, 256> first_{};
  std::unordered_map<std::uint64_t, std::int64_t> children_;  // node and byte -> node
  std::unordered_map<std::int64_t, std::int64_t> ids_;        // node -> the token that ends there
  std::int64_t nodes_ = 0;
};

}  // namespace trestle::models::text
