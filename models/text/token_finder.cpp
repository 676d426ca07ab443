#include "models/text/token_finder.h"

namespace trestle::models::text {
namespace {

std::uint64_t key_of(std::int64_t node, unsigned char byte) {
  return static_cast<std::uint64_t>(node) << 8 | byte;
}

}  // namespace

void TokenFinder::add(std::string_view content, std::int64_t id) {
  if (content.empty()) return;
  std::int64_t& first = first_[static_cast<unsigned char>(content[0])];
  if (first < 0) first = nodes_++;
  std::int64_t node = first;
  for (const char byte : content.substr(1)) {
    const auto [next, is_new] =
        children_.try_emplace(key_of(node, static_cast<unsigned char>(byte)), nodes_);
    if (is_new) ++nodes_;
    node = next->second;
  }
  ids_[node] = id;
}

std::int64_t TokenFinder::child(std::int64_t node, unsigned char byte) const {
  const auto found = children_.find(key_of(node, byte));
  return found == children_.end() ? -1 : found->second;
}

TokenFinder::Match TokenFinder::longest_at(std::string_view text) const {
  Match match;
  std::int64_t node = first_[static_cast<unsigned char>(text[0])];
  for (std::size_t bytes = 1; node >= 0; ++bytes) {
    if (const auto found = ids_.find(node); found != ids_.end()) match = {bytes, found->second};
    if (bytes == text.size()) break;
    node = child(node, static_cast<unsigned char>(text[bytes]));
  }
  return match;
}

void TokenFinder::split(std::string_view text, const std::function<void(std::string_view)>& between,
                        const std::function<void(std::int64_t)>& token) const {
  std::size_t begin = 0;  // of what lies between
  for (std::size_t at = 0; at < text.size();) {
    const Match match = longest_at(text.substr(at));
    if (match.bytes == 0) {
      ++at;
      continue;
    }
    if (at > begin) between(text.substr(begin, at - begin));
    token(match.id);
    at += match.bytes;
    begin = at;
  }
  if (text.size() > begin) between(text.substr(begin));
}

}  // namespace trestle::models::text
