"""ROS bags and MCAP files: camera topics as pictures with their times, and label maps written."""
