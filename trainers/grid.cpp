#include "trainers/grid.h"

#include "base/error.h"
#include "formats/png.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace trestle::trainers {
namespace {

constexpr int kGap = 6;

std::string to_bytes(const formats::Picture& picture) {
  std::string bytes(2 * sizeof(int), '\0');
  std::memcpy(bytes.data(), &picture.width, sizeof(int));
  std::memcpy(bytes.data() + sizeof(int), &picture.height, sizeof(int));
  bytes.append(picture.rgb.begin(), picture.rgb.end());
  return bytes;
}

/// Takes one picture off the front of `bytes`.
formats::Picture take_picture(std::string_view& bytes) {
  formats::Picture picture;
  std::memcpy(&picture.width, bytes.data(), sizeof(int));
  std::memcpy(&picture.height, bytes.data() + sizeof(int), sizeof(int));
  bytes.remove_prefix(2 * sizeof(int));
  const auto size = std::size_t(3) * picture.width * picture.height;
  picture.rgb.assign(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
  bytes.remove_prefix(size);
  return picture;
}

}  // namespace

formats::Picture tile(const std::vector<formats::Picture>& pictures) {
  TRESTLE_ASSERT(!pictures.empty(), "no pictures to tile");
  const int width = pictures.front().width, height = pictures.front().height;
  const auto count = static_cast<int>(pictures.size());
  const int columns = std::clamp(
      static_cast<int>(std::lround(std::sqrt(double(count) * height / width))), 1, count);
  const int rows = (count + columns - 1) / columns;
  formats::Picture grid{
      .width = columns * (width + kGap) + kGap, .height = rows * (height + kGap) + kGap, .rgb = {}};
  grid.rgb.assign(std::size_t(3) * grid.width * grid.height, 255);
  for (int i = 0; i < count; ++i) {
    const int left = kGap + (i % columns) * (width + kGap);
    const int top = kGap + (i / columns) * (height + kGap);
    for (int y = 0; y < height; ++y) {
      std::copy_n(pictures[i].rgb.begin() + std::ptrdiff_t(3) * y * width, 3 * width,
                  grid.rgb.begin() + 3 * (std::ptrdiff_t(top + y) * grid.width + left));
    }
  }
  return grid;
}

formats::Picture write_grid(Task& task, const Draws& draws, const dist::Mesh& mesh,
                            std::int64_t pictures, const std::filesystem::path& file,
                            StopToken stop) {
  const dist::Communicator& world = mesh.world();
  const std::int64_t rank = mesh.data().rank(), ranks = mesh.data().size();
  const std::string mine = world.agreed([&] {
    const std::int64_t available = task.dataset(Split::heldout).size();
    const std::int64_t count = std::min(pictures, available);
    SampleRequest request{.ids = {}, .stop = stop};
    for (std::int64_t i = count * rank / ranks; i < count * (rank + 1) / ranks; ++i) {
      request.ids.push_back(i * available / count);
    }
    std::string bytes;
    if (!request.ids.empty()) {
      for (const auto& picture : task.sample(request, draws)) bytes += to_bytes(picture);
    }
    return bytes;
  });
  const auto everyone = world.all_gather_bytes(mine);
  return world.agreed([&] {
    formats::Picture grid;
    if (!world.is_root()) return grid;
    std::vector<formats::Picture> all;
    for (std::string_view bytes : everyone) {
      while (!bytes.empty()) all.push_back(take_picture(bytes));
    }
    if (!file.parent_path().empty()) std::filesystem::create_directories(file.parent_path());
    grid = tile(all);
    formats::write_png(file, grid);
    return grid;
  });
}

}  // namespace trestle::trainers
