// Any picture file that Trestle reads, by what is in it and not by what it is called.
//
// LOCAL. THREADS: any.
//   Picture picture = read_picture("cats/0001.jpg");
#pragma once
#include "formats/picture.h"

#include <filesystem>

namespace trestle::formats {

/// PNG or JPEG (see formats/png.h and formats/jpeg.h for what becomes of each). Only a regular file
/// is opened. Errors: ExitCode::data, naming the file.
Picture read_picture(const std::filesystem::path& path);

}  // namespace trestle::formats
