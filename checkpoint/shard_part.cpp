#include "checkpoint/shard_part.h"

#include "base/error.h"
#include "base/files.h"

#include <charconv>

namespace trestle::checkpoint {
namespace {

/// It may be as long as a whole manifest.
constexpr std::uint64_t kLimitBytes = std::uint64_t{256} << 20;

}  // namespace

std::string part_name(int rank) { return fmt::format(".part-{:05}.json", rank); }

void write_part(const std::filesystem::path& folder, int rank, const ShardPart& part) {
  write_file_durable(folder / part_name(rank),
                     fmt::format("{}\n{}", part.took_s, to_text(part.manifest)),
                     ExitCode::checkpoint);
}

ShardPart read_part(const std::filesystem::path& folder, int rank) {
  const std::filesystem::path path = folder / part_name(rank);
  const std::string text = read_text_file(path, kLimitBytes, ExitCode::checkpoint);
  const std::string_view line = std::string_view(text).substr(0, text.find('\n'));
  ShardPart part;
  const auto [end, problem] = std::from_chars(line.data(), line.data() + line.size(), part.took_s);
  TRESTLE_REQUIRE_AS(
      checkpoint,
      problem == std::errc() && end == line.data() + line.size() && line.size() < text.size(),
      "{} is not what a rank wrote (its first line is no number). Save again.", path.string());
  part.manifest = parse_manifest(std::string_view(text).substr(line.size() + 1), path.string());
  return part;
}

}  // namespace trestle::checkpoint
