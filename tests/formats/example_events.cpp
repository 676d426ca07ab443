// Writes events that tests/program/tensorboard_test.py knows, as one run would that goes on from
// step FIRST: example_events FOLDER FIRST LAST
#include "formats/tensorboard.h"

#include <cmath>
#include <cstdlib>
#include <string>

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::int64_t first = std::atoll(argv[2]), last = std::atoll(argv[3]);
  trestle::formats::EventWriter writer(argv[1], first);
  for (std::int64_t step = first; step <= last; ++step) {
    // `session` tells which of two runs a value is from.
    writer.scalars(step, {{"train/loss", 1.0 / double(step)},
                          {"train/negative", -1e-30 * double(step)},
                          {"train/large", 3e38},
                          {"train/not finite", std::nan("")},
                          {"session", double(first)}});
    if (step % 2 != 0) continue;
    const int width = 20 + static_cast<int>(step), height = 9;
    trestle::formats::Picture picture{.width = width, .height = height, .rgb = {}};
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        for (const int value : {7 * x, 13 * y, static_cast<int>(step)}) {
          picture.rgb.push_back(static_cast<std::uint8_t>(value));
        }
      }
    }
    writer.picture(step, "samples", picture);
  }
}
