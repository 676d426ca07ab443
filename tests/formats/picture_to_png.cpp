// picture_to_png IN OUT.png: what read_picture makes of a file, for judges that read PNG.
#include "base/error.h"
#include "formats/picture_file.h"
#include "formats/png.h"

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 3) return static_cast<int>(trestle::ExitCode::usage);
  try {
    trestle::formats::write_png(argv[2], trestle::formats::read_picture(argv[1]));
  } catch (const trestle::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
