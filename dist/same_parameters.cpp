#include "dist/same_parameters.h"

#include "base/digest.h"
#include "dist/channel.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace trestle::dist {
namespace {

/// "fp32 [3, 4] digest" of a parameter.
std::string description(const at::Tensor& tensor) {
  const at::Tensor host = tensor.detach().cpu().contiguous();
  const std::span bytes(static_cast<const std::byte*>(host.const_data_ptr()), host.nbytes());
  return fmt::format("{} [{}] {:016x}", c10::toString(host.scalar_type()),
                     fmt::join(host.sizes(), ", "), digest_64(bytes));
}

/// A line a parameter; names hold no line ends.
std::vector<std::string> describe(std::span<const NamedLeaf> leaves) {
  std::vector<std::string> lines;
  for (const NamedLeaf& leaf : leaves)
    lines.push_back(fmt::format("{}\t{}", leaf.name, description(leaf.tensor)));
  return lines;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string name_of(const std::string& line) { return line.substr(0, line.find('\t')); }
std::string kind_of(const std::string& line) {
  return line.substr(line.find('\t') + 1, line.rfind(' ') - line.find('\t') - 1);
}

std::string difference(const std::string& odd, const std::string& usual) {
  if (name_of(odd) != name_of(usual))
    return fmt::format("has {} where others have {}", name_of(odd), name_of(usual));
  if (kind_of(odd) != kind_of(usual))
    return fmt::format("has {} as {}, others as {}", name_of(odd), kind_of(odd), kind_of(usual));
  return fmt::format("has other values in {} than the others", name_of(odd));
}

}  // namespace

void require_same_parameters(const Communicator& world, std::span<const NamedLeaf> leaves,
                             std::string_view when, ExitCode code) {
  if (world.size() == 1) return;
  const std::string mine = fmt::format("{}", fmt::join(describe(leaves), "\n"));
  const auto digests = world.all_gather_bytes(digest_128(mine));
  if (std::ranges::count(digests, digests[0]) == world.size()) return;

  std::map<std::string_view, int> votes;
  for (const std::string& digest : digests) ++votes[digest];
  const auto usual = std::ranges::max_element(
      digests, {}, [&](const std::string& digest) { return votes[digest]; });  // the first of them
  const auto odd =
      std::ranges::find_if(digests, [&](const std::string& digest) { return digest != *usual; });
  const auto odd_place = static_cast<std::size_t>(odd - digests.begin());
  const int odd_rank = world.channel().members()[odd_place];  // of the run, not of the group
  const auto texts = world.all_gather_bytes(mine);
  const auto a = lines_of(texts[odd_place]);
  const auto b = lines_of(texts[static_cast<std::size_t>(usual - digests.begin())]);
  std::string what = fmt::format("has {} parameters, others {}", a.size(), b.size());
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (a[i] == b[i]) continue;
    what = difference(a[i], b[i]);
    break;
  }
  throw AgreedError(code,
                    fmt::format("{}: rank {} {} (all ranks must train the same parameters). Give "
                                "every rank the same recipe, files and build; where they had them, "
                                "suspect that rank's memory.",
                                when, odd_rank, what));
}

}  // namespace trestle::dist
