from keras_swapout.study.cli import main

main()
